"""Run coremltools' graph passes on a saved ``.mlpackage``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ExportError
from ...utils.text import one_line
from . import quiet

_MIL = 'coremltools.converters.mil.mil.passes'


def graph_pass(name: str, **options: Any) -> Any:
    """A pass of coremltools' registry, with its options.

    Passes are shared objects: options last until they are set again.
    """
    registry = quiet.module(f'{_MIL}.pass_registry').PASS_REGISTRY
    option = quiet.module(f'{_MIL}.graph_pass').PassOption
    found = registry[name]
    found.set_options([option(k, v) for k, v in options.items()])
    return found


def run_passes(source: Path, passes: Sequence[Any], out: Path) -> Path:
    """Write ``source``, transformed, to ``out``.

    The functions of ``coremltools.optimize.coreml`` do the same with one pass each, and every one
    of them converts the whole program once more. Interface, labels, metadata and deployment target
    stay.

    Raises:
        ExportError: coremltools refuses.
    """
    utils = quiet.module('coremltools.models.utils')
    try:
        with quiet.conversion() as ct:
            model = ct.models.MLModel(str(source), skip_model_load=True)
            version = model.get_spec().specificationVersion
            # Channels of zeros, which training leaves, have scale 0.
            with np.errstate(invalid='ignore', divide='ignore'):
                model = utils._apply_graph_pass(
                    model, list(passes), spec_version=version, skip_model_load=True
                )
            model.save(str(out))
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # What coremltools raises for programs it cannot transform.
        raise ExportError(f'{source}: cannot compress: {one_line(error)}') from error
    return out
