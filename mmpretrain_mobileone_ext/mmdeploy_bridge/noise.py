"""Import and drive mmdeploy without its known-harmless messages.

mmdeploy 1.3.1 reports operators that it would rewrite and that are not
installed (mmcv's), libraries of custom operators that no classifier uses,
scopes in which mmengine does not find mmdeploy's own registries, and what
step it is at. Exactly these are dropped, inside a ``with`` block; whatever
else it logs, warns or prints still reaches the user.
"""
from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator

import torch
from mmengine.logging import MMLogger

_LOGGED = re.compile(
    r'^Failed to search registry with scope "mmpretrain" in the '
    r'"(Codebases|mmpretrain_tasks)" registry tree'
    r'|^Can not find mmcv\.|^Can not add symbolic for `mmcv\.'
    r'|^Can not load custom ops because'
    r'|^Export PyTorch model to (torchscript|ONNX)|^Save PyTorch model'
    r'|^Support for converting Torch Script Models is experimental'
    r'|^DeprecationWarning: get_onnx_config')
_PRINTED = re.compile(r'^Loads checkpoint by \w+ backend from path')
_WARNED = (
    (r'pkg_resources is deprecated as an API', UserWarning),
    (r'Detect multiple valid rewriters', UserWarning),
    (r'`torch\.jit\.(load|save|trace)', FutureWarning),
    (r'`torch\.jit\.(load|save|trace)', DeprecationWarning),
    (r'You are using the legacy TorchScript-based ONNX export',
     DeprecationWarning),
    (r'The feature will be removed\. Please remove usage of this function',
     DeprecationWarning),
)


class _Drop(logging.Filter):
    """Reject the records that are known to mean nothing here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _LOGGED.search(record.getMessage()) is None


@contextlib.contextmanager
def quiet_mmdeploy() -> Iterator[None]:
    """Drop mmdeploy's known messages inside the block."""
    loggers = [
        MMLogger.get_current_instance(),
        MMLogger.get_instance('mmdeploy'),
        logging.getLogger('coremltools'),
    ]
    drop = _Drop()
    with contextlib.ExitStack() as stack:
        for logger in loggers:
            logger.addFilter(drop)
            stack.callback(logger.removeFilter, drop)
        stack.enter_context(warnings.catch_warnings())
        for message, category in _WARNED:
            warnings.filterwarnings('ignore', message, category)
        # The file is compared with the network on images: a trace that is
        # wrong for this size fails there, and not by a warning.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        stack.enter_context(_without_known_lines())
        yield


@contextlib.contextmanager
def _without_known_lines() -> Iterator[None]:
    """Hold stdout back; what is not known goes to stderr afterwards."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        for line in held.getvalue().splitlines():
            if line.strip() and not _PRINTED.search(line):
                print(line, file=sys.stderr)
