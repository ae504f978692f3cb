"""Import and drive coremltools without its known-harmless noise.

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
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ...errors import ProgramError

_LOGGER = 'coremltools'

_IMPORT_NOISE = re.compile(
    r'^Failed to load _(ML\w+Proxy): No module named'
    r'|^Fail to import \w+ from libcoremlpython'
    r'|^scikit-learn version \S+ is not supported\.'
    r'|^(Torch|TensorFlow|XGBoost) version \S+ has not been tested with'
)

_LOGGED_NOISE = re.compile(
    r'^Saving value type of \S+ into a builtin type of \S+, '
    r'might lose precision!'
    # Several outputs become several features, which is what is asked for.
    r'|^Tuple detected at graph output\. This will be flattened'
)

_CONVERSION_NOISE = (
    # torch.jit.trace is the better tested front end of coremltools 9.
    (r'`torch\.jit\.trace', FutureWarning),
    (r'`torch\.jit\.trace', DeprecationWarning),
    # Numeric TorchScript names are no valid MIL names; outputs that matter are named through
    # TensorType/ClassifierConfig by the exporter.
    (r"Output, '.*', of the source model, has been renamed", UserWarning),
    # coremltools converts arrays of one element with int() and float().
    (r'Conversion of an array with ndim > 0 to a scalar', DeprecationWarning),
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

_INSTALL = "pip install 'coremltools>=9,<10' 'numpy<2.4'"


class _Drop(logging.Filter):
    """Reject the records whose message matches ``pattern``."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__()
        self._pattern = pattern

    def filter(self, record: logging.LogRecord) -> bool:
        return self._pattern.search(record.getMessage()) is None


@contextlib.contextmanager
def _without_records(pattern: re.Pattern[str]) -> Iterator[None]:
    """Drop matching records of coremltools' logger inside the block."""
    logger, drop = logging.getLogger(_LOGGER), _Drop(pattern)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


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
        with _without_records(_IMPORT_NOISE):
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
