"""The one place that drives mmdeploy: from a checkpoint to a backend file.

What does not work with mmdeploy 1.3.1 as it comes from PyPI, and what is
done about it:

- Its wheel has no ``tools/deploy.py`` and no deploy configs: its API is
  called, with the configs in ``configs/mmdeploy``.
- ``tools/deploy.py`` ends by predicting with the file, which Core ML refuses
  off macOS (exit code 1): the reference runtime predicts instead.
- torch.onnx.export has a new default, which needs onnxscript, and with it
  ignores the config's opset and mmdeploy's rewriting: the older exporter is
  asked for.
- ``mmdeploy_onnx2ncnn`` is not in the wheel, and its ONNX has operators of
  its own: ncnn is made by pnnx from the ONNX for ONNX Runtime.
- A deploy checkpoint needs ``backbone.deploy=True``: it is set.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..child_process import run_child
from ..coreml import quiet
from ..coreml.export_source import one_line, untouched_rng
from ..errors import ExportError, MobileOneExtError
from .network import Network, mmdeploy_model_config
from .noise import quiet_mmdeploy

NAME = 'model'
PARAM, BIN = f'{NAME}.param', f'{NAME}.bin'
_INSTALL = ("pip install 'mmdeploy==1.3.1', in an environment of its own: it "
            'replaces protobuf by 3.20.2')


def require_mmdeploy(backend: str) -> None:
    """Import what a backend needs, before minutes are spent without it.

    Raises:
        ExportError: says what is not installed, and how to install it.
        ProgramError: coremltools is not installed.
    """
    if importlib.util.find_spec('mmdeploy') is None:
        raise ExportError(f'mmdeploy is not installed; {_INSTALL}')
    needed = {'ncnn': ('pnnx', 'ncnn')}.get(backend, ())
    missing = [n for n in needed if importlib.util.find_spec(n) is None]
    if missing:
        raise ExportError(f'{backend} needs {" and ".join(missing)}; pip '
                          f'install {" ".join(missing)}')
    if backend == 'coreml':
        quiet.coremltools()
    try:
        with quiet_mmdeploy():
            importlib.import_module('mmdeploy.apis')
    # Its imports reach into torch, onnx and protobuf of any version.
    except Exception as error:
        raise ExportError(f'mmdeploy cannot be imported ({one_line(error)}); '
                          f'{_INSTALL}') from error


def convert(network: Network, checkpoint: str, folder: Path) -> Path:
    """Make the file or folder that the deploy config describes.

    Args:
        network: the classifier; its deploy config has a shape.
        checkpoint: path that mmdeploy loads.
        folder: where everything is written.

    Returns:
        ``folder / 'model.<suffix>'``.

    Raises:
        ExportError: mmdeploy, or what it calls, cannot convert the network.
    """
    makers: dict[str, Callable[..., Path]] = {
        'coreml': _core_ml, 'onnxruntime': _onnx, 'ncnn': _ncnn}
    backend = network.deploy.backend
    require_mmdeploy(backend)
    try:
        with quiet_mmdeploy(), untouched_rng(), _own_scope():
            return makers[backend](network, checkpoint, folder)
    except MobileOneExtError:
        raise
    # mmdeploy asserts, and exits where a backend is missing.
    except (Exception, SystemExit) as error:
        raise ExportError(f'mmdeploy cannot convert the network to {backend} '
                          f'({one_line(error, 500)})') from error


@contextlib.contextmanager
def _own_scope() -> Iterator[None]:
    """Remove the scope that mmdeploy's task leaves behind as the current."""
    try:
        yield
    finally:
        DefaultScope._instance_dict.pop('BaseTask', None)


def _core_ml(network: Network, checkpoint: str, folder: Path) -> Path:
    with quiet.conversion():
        cfg = copy.deepcopy(network.deploy.cfg)
        _to_ir('torch2torchscript', network, checkpoint, folder, cfg, '.pt')
        manager = importlib.import_module(
            'mmdeploy.backend.coreml.backend_manager').CoreMLManager
        made = manager.to_backend([str(folder / f'{NAME}.pt')], str(folder),
                                  cfg)
    return Path(made[0])


def _onnx(network: Network, checkpoint: str, folder: Path) -> Path:
    cfg = copy.deepcopy(network.deploy.cfg)
    with _torchscript_exporter():
        return _to_ir('torch2onnx', network, checkpoint, folder, cfg, '.onnx')


def _ncnn(network: Network, checkpoint: str, folder: Path) -> Path:
    cfg = copy.deepcopy(network.deploy.cfg)
    # Its operators for ncnn are known to mmdeploy_onnx2ncnn only.
    cfg.backend_config = dict(type='onnxruntime')
    with _torchscript_exporter():
        made = _to_ir('torch2onnx', network, checkpoint, folder, cfg, '.onnx')
    _call_pnnx(made, network.preprocessing.shape)
    target = folder / f'{NAME}.ncnn'
    target.mkdir()
    for name in (PARAM, BIN):
        made.with_name(f'{NAME}.ncnn{Path(name).suffix}').rename(target / name)
    return target


def _to_ir(function: str, network: Network, checkpoint: str, folder: Path,
           cfg: Config, suffix: str) -> Path:
    """Call mmdeploy's ``torch2...``; returns what it wrote."""
    apis = importlib.import_module('mmdeploy.apis')
    channels, size = network.preprocessing.channels, network.preprocessing.size
    getattr(apis, function)(
        np.zeros((*size, channels), np.uint8),
        str(folder),
        f'{NAME}{suffix}',
        cfg,
        mmdeploy_model_config(network),
        checkpoint,
        device='cpu')
    return folder / f'{NAME}{suffix}'


@contextlib.contextmanager
def _torchscript_exporter() -> Iterator[None]:
    """Let ``torch.onnx.export`` be the exporter that mmdeploy rewrites."""
    export: Any = torch.onnx.export
    if 'dynamo' not in inspect.signature(export).parameters:
        yield  # a torch that has no other
        return
    torch.onnx.export = functools.partial(export, dynamo=False)
    try:
        yield
    finally:
        torch.onnx.export = export


def _call_pnnx(onnx: Path, shape: tuple[int, int, int, int]) -> None:
    program = importlib.import_module('pnnx').EXEC_PATH
    sizes = ','.join(str(i) for i in shape)
    done = run_child([program, onnx.name, f'inputshape=[{sizes}]', 'fp16=0'],
                     cwd=onnx.parent)
    # It may fail with exit code 0.
    if not all(onnx.with_name(f'{NAME}.ncnn.{kind}').is_file()
               for kind in ('param', 'bin')):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ExportError(f'pnnx cannot convert the network to ncnn '
                          f'(exit code {done.returncode}; {" ".join(last)})')
