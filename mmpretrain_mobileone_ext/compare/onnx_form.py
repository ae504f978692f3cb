"""The same network in ONNX Runtime, where that is installed."""
from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..parity import Tolerance, compare

#: Random weights of a deep network blow float32's rounding errors up, to
#: 4e-4 in S4; a wrong export is off by far more.
_BOUND = Tolerance('onnx', 1e-2)
_NEEDS = ('onnxruntime', 'onnx', 'onnxscript')


def missing() -> list[str]:
    """Packages that this column needs and that are not installed."""
    return [name for name in _NEEDS if find_spec(name) is None]


def onnx_call(model: nn.Module, image: Tensor,
              threads: int) -> Callable[[], Any]:
    """Export, compare with torch, and return a call that runs ``image``.

    Args:
        model: in eval mode.
        image: (1, 3, S, S) float32, normalized.
        threads: of the session.

    Raises:
        ParityError: ONNX Runtime computes something else.
    """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        _export(model, image, path)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(image.numpy())}
    with torch.no_grad():
        wanted = model(image)
    found = torch.from_numpy(session.run(None, feed)[0])
    compare(wanted, found).require(_BOUND, 'ONNX Runtime against torch')
    return lambda: session.run(None, feed)


def _export(model: nn.Module, image: Tensor, path: Path) -> None:
    loggers = [logging.getLogger(n) for n in ('torch.onnx', 'onnxscript')]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        # Steps of the exporter are printed, whatever is asked for.
        with warnings.catch_warnings(), \
                contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            torch.onnx.export(model, (image, ), str(path), dynamo=True,
                              external_data=False)
    finally:
        for log, level in zip(loggers, levels):
            log.setLevel(level)
