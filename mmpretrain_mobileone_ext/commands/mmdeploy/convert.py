"""The one place that drives mmdeploy: from a checkpoint to a backend file.

What does not work with mmdeploy 1.3.1 as it comes from PyPI, and what is done about it:

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
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import nn

from ...coreml.program import quiet
from ...errors import ExportError, MobileOneExtError
from ...export.data import Images, TestSplit, choose_images, open_split, read_sample
from ...export.network import count_logits
from ...export.source import Labels, Source, choose_labels, load_source
from ...models.preprocessing import Preprocessing, read_preprocessing
from ...utils.machine import untouched_rng
from ...utils.processes import run_child
from ...utils.text import one_line
from .deploy_config import DeployConfig, DeployOptions

PathLike = Union[str, Path]
NAME = 'model'
PARAM, BIN = f'{NAME}.param', f'{NAME}.bin'
_INSTALL = (
    "pip install 'mmdeploy==1.3.1', in an environment of its own: it replaces protobuf by 3.20.2"
)
_LOGGED = re.compile(
    r'^Failed to search registry with scope "mmpretrain" in the '
    r'"(Codebases|mmpretrain_tasks)" registry tree'
    r'|^Can not find mmcv\.|^Can not add symbolic for `mmcv\.'
    r'|^Can not load custom ops because'
    r'|^Export PyTorch model to (torchscript|ONNX)|^Save PyTorch model'
    r'|^Support for converting Torch Script Models is experimental'
    r'|^DeprecationWarning: get_onnx_config'
)
_PRINTED = re.compile(r'^Loads checkpoint by \w+ backend from path')
_WARNED = (
    (r'pkg_resources is deprecated as an API', UserWarning),
    (r'Detect multiple valid rewriters', UserWarning),
    (r'`torch\.jit\.(load|save|trace)', FutureWarning),
    (r'`torch\.jit\.(load|save|trace)', DeprecationWarning),
    (r'You are using the legacy TorchScript-based ONNX export', DeprecationWarning),
    (r'The feature will be removed\. Please remove usage of this function', DeprecationWarning),
)


@dataclass(frozen=True)
class Network:
    """A classifier before mmdeploy sees it.

    Attributes:
        source: the network as loaded, and its config.
        deploy: the deploy config, with the shape of this network's images.
        split: the test split as the config describes it.
        preprocessing: what an app must do before the deployed file.
        images: what files are compared on.
        labels: class labels, for the metadata.
    """

    source: Source
    deploy: DeployConfig
    split: TestSplit
    preprocessing: Preprocessing
    images: Images
    labels: Labels


def load_network(
    deploy: DeployConfig,
    config: PathLike,
    checkpoint: PathLike,
    options: DeployOptions,
    cfg_options: Optional[Mapping[str, Any]] = None,
) -> Network:
    """Load the classifier and fit the deploy config to it.

    Args:
        config: config file of mmpretrain or this package.
        checkpoint: branch or deploy checkpoint.
        cfg_options: dotted keys to values, merged into the config.

    Raises:
        ExportError: no classifier, or images of another size than the deploy config's.
        CheckpointError: the checkpoint is unsafe or does not fit.
    """
    source = load_source(config, checkpoint, cfg_options)
    split = open_split(source.config, options.image_size, options.verify_data != 'none')
    deploy = _fitted(deploy, source, split, options)
    channels, size = deploy.channels or 0, deploy.size or (0, 0)
    pre = read_preprocessing(
        source.model.get_submodule('data_preprocessor'), channels, size, split.data_order
    )
    return Network(
        source=source,
        deploy=deploy,
        split=split,
        preprocessing=pre,
        images=choose_images(split, options.verify_data, pre.shape),
        labels=choose_labels(
            None,
            [('checkpoint', source.classes), *split.labels],
            count_logits(source.model, pre.shape),
        ),
    )


def _fitted(
    deploy: DeployConfig, source: Source, split: TestSplit, options: DeployOptions
) -> DeployConfig:
    """The deploy config with C, H and W, which must be the images'."""
    channels, size = _input_channels(source.model), split.size
    if split.dataset is not None:
        image, _ = read_sample(split, 0)
        channels, size = image.shape[0], (image.shape[1], image.shape[2])
    if options.image_size is not None:
        return deploy.with_shape(channels, options.image_size)
    if deploy.size is None and size is None:
        raise ExportError(
            f'{deploy.name} and the test pipeline of {source.config_name} state no image size; '
            'give --image-size'
        )
    stated = deploy.channels or channels, deploy.size or size
    if stated != (channels, size or deploy.size):
        raise ExportError(
            f'{deploy.name} takes {(stated[0], *(stated[1] or ()))} (C, H, '
            f'W), the images of {source.config_name} are '
            f'{(channels, *(size or ()))}; give --image-size to set the '
            "deploy config's"
        )
    return deploy if deploy.channels else deploy.with_shape(channels, stated[1] or (0, 0))


def _input_channels(model: nn.Module) -> int:
    """C, by the first convolution."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return convs[0].in_channels if convs else 3


def mmdeploy_model_config(network: Network) -> Config:
    """The model's config as mmdeploy's API needs it.

    mmdeploy builds the model with the config's own ``deploy``, looks for a test pipeline and a
    scope at the top level, and makes its example input with them; it is given an array here, so
    packing is the only step.
    """
    source = network.source
    cfg = copy.deepcopy(source.config)
    assert cfg is not None  # load_source was given a config file
    cfg.default_scope = cfg.get('default_scope') or 'mmpretrain'
    cfg.test_pipeline = [dict(type='PackInputs')]
    cfg.model.pop('train_cfg', None)
    keys = source.model.state_dict()
    if any('.branch_reparam.' in key for key in keys):
        cfg.model.setdefault('backbone', {})['deploy'] = True
    return cfg


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
        raise ExportError(
            f'{backend} needs {" and ".join(missing)}; pip install {" ".join(missing)}'
        )
    if backend == 'coreml':
        quiet.coremltools()
    try:
        with quiet_mmdeploy():
            importlib.import_module('mmdeploy.apis')
    # Its imports reach into torch, onnx and protobuf of any version.
    except Exception as error:
        raise ExportError(f'mmdeploy cannot be imported ({one_line(error)}); {_INSTALL}') from error


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
        'coreml': _core_ml,
        'onnxruntime': _onnx,
        'ncnn': _ncnn,
    }
    backend = network.deploy.backend
    try:
        with quiet_mmdeploy(), untouched_rng(), _own_scope():
            return makers[backend](network, checkpoint, folder)
    except MobileOneExtError:
        raise
    # mmdeploy asserts, and exits where a backend is missing.
    except (Exception, SystemExit) as error:
        raise ExportError(
            f'mmdeploy cannot convert the network to {backend} ({one_line(error, 500)})'
        ) from error


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
        traced = _to_ir('torch2torchscript', network, checkpoint, folder, cfg, '.pt')
        manager = importlib.import_module('mmdeploy.backend.coreml.backend_manager').CoreMLManager
        return Path(manager.to_backend([str(traced)], str(folder), cfg)[0])


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


def _to_ir(
    function: str, network: Network, checkpoint: str, folder: Path, cfg: Config, suffix: str
) -> Path:
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
        device='cpu',
    )
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
    done = run_child([program, onnx.name, f'inputshape=[{sizes}]', 'fp16=0'], cwd=onnx.parent)
    # It may fail with exit code 0.
    if not all(onnx.with_name(f'{NAME}.ncnn.{kind}').is_file() for kind in ('param', 'bin')):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise ExportError(
            f'pnnx cannot convert the network to ncnn '
            f'(exit code {done.returncode}; {" ".join(last)})'
        )


def _is_news(record: logging.LogRecord) -> bool:
    return _LOGGED.search(record.getMessage()) is None


@contextlib.contextmanager
def quiet_mmdeploy() -> Iterator[None]:
    """Drop mmdeploy's known messages inside the block.

    mmdeploy 1.3.1 reports operators that it would rewrite and that are not installed (mmcv's),
    libraries of custom operators that no classifier uses, scopes in which mmengine does not find
    mmdeploy's own registries, and what step it is at. Whatever else it logs, warns or prints still
    reaches the user.
    """
    loggers = [
        MMLogger.get_current_instance(),
        MMLogger.get_instance('mmdeploy'),
        logging.getLogger('coremltools'),
    ]
    with contextlib.ExitStack() as stack:
        for logger in loggers:
            logger.addFilter(_is_news)
            stack.callback(logger.removeFilter, _is_news)
        stack.enter_context(warnings.catch_warnings())
        for message, category in _WARNED:
            warnings.filterwarnings('ignore', message, category)
        # The file is compared with the network on images: a trace that is wrong for this size fails
        # there, and not by a warning.
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
