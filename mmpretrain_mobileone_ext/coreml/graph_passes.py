"""Run coremltools' graph passes on a saved ``.mlpackage``."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError
from . import quiet
from .export_source import one_line
from .graph import Program

#: Specification version of a file to the oldest iOS that reads it.
SYSTEMS = {6: 'iOS15', 7: 'iOS16', 8: 'iOS17', 9: 'iOS18'}
_MIL = 'coremltools.converters.mil.mil.passes'


def system_of(program: Program) -> str:
    """The deployment target of a program, e.g. 'iOS16'.

    Raises:
        ExportError: it is no ``mlprogram``, or newer than iOS 18.
    """
    if program.format != 'mlprogram':
        raise ExportError(
            f'{program.path} is a {program.format}; only the weights of an '
            'mlprogram (.mlpackage) have forms of their own')
    if program.spec_version not in SYSTEMS:
        raise ExportError(
            f'{program.path} has specification version '
            f'{program.spec_version}; known: '
            f'{", ".join(f"{k} ({v})" for k, v in SYSTEMS.items())}')
    return SYSTEMS[program.spec_version]


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

    The functions of ``coremltools.optimize.coreml`` do the same with one
    pass each, and every one of them converts the whole program once more.
    Interface, labels, metadata and deployment target stay.

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
                    model, list(passes), spec_version=version,
                    skip_model_load=True)
            model.save(str(out))
    except (AssertionError, NotImplementedError, RuntimeError, TypeError,
            ValueError) as error:
        # What coremltools raises for programs it cannot transform.
        raise ExportError(f'{source}: cannot compress: '
                          f'{one_line(error)}') from error
    return out
