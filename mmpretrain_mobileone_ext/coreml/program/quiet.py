"""Use coremltools without its messages: import it, convert, run its passes.

coremltools reports on every import that Apple's private libraries are absent (they exist on macOS
only) and that torch and scikit-learn are newer than the releases it was tested with;
``coremltools.convert`` adds progress bars and deprecation warnings. A tool that prints those lines
looks broken. Exactly these messages are dropped here, for the duration of a ``with`` block and for
this logger only; everything else coremltools says still reaches the user.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import ExportError, ProgramError
from ...utils.text import one_line

_LOGGER = 'coremltools'
#: Where torch says that torchao, which coremltools and Core AI's packages import, still registers
#: its enums.
_PYTREE = 'torch.utils._pytree'

_IMPORT_NOISE = re.compile(
    r'^Failed to load _(ML\w+Proxy): No module named'
    r'|^Fail to import \w+ from libcoremlpython'
    r'|^scikit-learn version \S+ is not supported\.'
    r'|^(Torch|TensorFlow|XGBoost) version \S+ has not been tested with'
)

_ENUM_NOISE = re.compile(r'is an Enum subclass and is now natively supported by torch\.compile')

#: Where torch says at length what it cannot export, before it raises.
_EXPORT_LOGGERS = ('torch._subclasses.fake_tensor', 'torch.fx.experimental.symbolic_shapes')
#: Which operation coremltools cannot convert.
_UNCONVERTED = re.compile(r"^\s*ERROR - converting '")

_LOGGED_NOISE = re.compile(
    r'^Saving value type of \S+ into a builtin type of \S+, '
    r'might lose precision!'
    # Several outputs become several features, which is what is asked for.
    r'|^Tuple detected at graph output\. This will be flattened'
)

_CONVERSION_NOISE = (
    # What cannot be exported is traced.
    (r'`torch\.jit\.trace', FutureWarning),
    (r'`torch\.jit\.trace', DeprecationWarning),
    # Numeric TorchScript names are no valid MIL names; outputs that matter are named through
    # TensorType/ClassifierConfig by the exporter.
    (r"Output, '.*', of the source model, has been renamed", UserWarning),
    # coremltools converts arrays of one element with int() and float().
    (r'Conversion of an array with ndim > 0 to a scalar', DeprecationWarning),
    # coremltools warns of its own table of operations.
    (r'Function _TORCH_OPS_REGISTRY', DeprecationWarning),
    # coremltools lets Python remove the temporary package it builds.
    (r'Implicitly cleaning up <TemporaryDirectory', ResourceWarning),
)

_BARS = (
    ('coremltools.converters.mil.frontend.torch.ops', '_tqdm'),
    ('coremltools.converters.mil.backend.nn.op_mapping', '_tqdm'),
    ('coremltools.converters.mil.mil.passes.pass_pipeline', 'tqdm'),
    ('coremltools.optimize.coreml._quantization_passes', 'tqdm'),
    ('coremltools.optimize.coreml._post_training_quantization', 'tqdm'),
)

_INSTALL = "pip install 'mmpretrain-mobileone-ext[coreml]'"


class _Drop(logging.Filter):
    """Reject the records whose message matches ``pattern``."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__()
        self._pattern = pattern

    def filter(self, record: logging.LogRecord) -> bool:
        return self._pattern.search(record.getMessage()) is None


@contextlib.contextmanager
def _without_records(pattern: re.Pattern[str], logger_name: str = _LOGGER) -> Iterator[None]:
    """Drop matching records of a logger inside the block."""
    logger, drop = logging.getLogger(logger_name), _Drop(pattern)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def importing_torchao() -> contextlib.AbstractContextManager[None]:
    """Without what torch says when torchao is imported."""
    return _without_records(_ENUM_NOISE, _PYTREE)


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Without what torch logs and prints of an export that fails, as the whole graph: it raises."""
    nowhere = io.StringIO()
    with contextlib.ExitStack() as stack:
        for name in _EXPORT_LOGGERS:
            stack.enter_context(_without_records(re.compile(''), name))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def first_try() -> contextlib.AbstractContextManager[None]:
    """Without coremltools' word on an operation that it cannot convert: there is another way."""
    return _without_records(_UNCONVERTED)


def module(name: str) -> ModuleType:
    """Import a coremltools submodule without its known-harmless messages.

    Args:
        name: full dotted name, e.g. ``'coremltools.optimize.coreml'``.

    Raises:
        ProgramError: coremltools, or this part of it, is not installed.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        with _without_records(_IMPORT_NOISE), importing_torchao():
            return importlib.import_module(name)
    except ImportError as error:
        raise ProgramError(
            f'cannot import {name!r} ({error}); Core ML files need coremltools: {_INSTALL}'
        ) from error


def coremltools() -> Any:
    """The ``coremltools`` package, imported quietly; raises as :func:`module`."""
    return module(_LOGGER)


@contextlib.contextmanager
def conversion() -> Iterator[Any]:
    """Silence the known-harmless noise of tracing, converting, compressing.

    Inside the block coremltools' progress bars are off, and the ``torch.jit.trace`` deprecation,
    the renaming of numbered outputs and the clean-up of temporary packages are not reported.
    Nothing else is hidden, and leaving the block restores everything.

    Yields:
        The ``coremltools`` package.

    Raises:
        ProgramError: coremltools is not installed.
    """
    package = coremltools()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_records(_LOGGED_NOISE))
        stack.enter_context(warnings.catch_warnings())
        for message, category in _CONVERSION_NOISE:
            warnings.filterwarnings('ignore', message, category)
        for name, attribute in _BARS:
            stack.enter_context(_without_bar(module(name), attribute))
        yield package


@contextlib.contextmanager
def _without_bar(owner: ModuleType, attribute: str) -> Iterator[None]:
    """Replace a module's ``tqdm`` by a disabled one inside the block."""
    tqdm = getattr(owner, attribute)
    setattr(owner, attribute, functools.partial(tqdm, disable=True))
    try:
        yield
    finally:
        setattr(owner, attribute, tqdm)


_MIL = 'coremltools.converters.mil.mil.passes'


def graph_pass(name: str, **options: Any) -> Any:
    """A pass of coremltools' registry, with its options.

    Passes are shared objects: options last until they are set again.
    """
    registry = module(f'{_MIL}.pass_registry').PASS_REGISTRY
    option = module(f'{_MIL}.graph_pass').PassOption
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
    utils = module('coremltools.models.utils')
    try:
        with conversion() as ct:
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
