"""What a user may ask of a deployment, checked before mmdeploy is asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config

from ...errors import ExportError
from ...export.options import checked_size, checked_verify
from ...utils.checks import boolean, one_of, path, refuse
from ...utils.files import check_free
from ...utils.text import one_line

#: Backend to the intermediate form that mmdeploy writes for it.
IR_TYPES = {'coreml': 'torchscript', 'onnxruntime': 'onnx', 'ncnn': 'onnx'}
_CORE_ML_SUFFIX = {'mlprogram': '.mlpackage', 'neuralnetwork': '.mlmodel'}
_SUFFIX = {'onnxruntime': '.onnx', 'ncnn': '.ncnn'}
_PRECISION = {'FLOAT16': 'fp16', 'FLOAT32': 'fp32'}
_BOUNDS = ('min_shape', 'max_shape', 'default_shape')


@dataclass(frozen=True)
class DeployConfig:
    """What a deploy config asks for.

    Attributes:
        name: file name.
        backend: 'coreml', 'onnxruntime' or 'ncnn'.
        suffix: of the output: '.mlpackage', '.mlmodel', '.onnx', or '.ncnn' for a folder with
            ``model.param`` and ``model.bin``.
        precision: 'fp16' or 'fp32'.
        channels: C of the input, None where the config does not say it.
        size: (H, W) of the input, None where the config does not say it.
        cfg: the config as mmdeploy takes it.
    """

    name: str
    backend: str
    suffix: str
    precision: str
    channels: Optional[int]
    size: Optional[tuple[int, int]]
    cfg: Config = field(repr=False)

    @property
    def input_name(self) -> str:
        """Name of the only input."""
        return self.cfg.ir_config.input_names[0]

    def with_shape(self, channels: int, size: tuple[int, int]) -> DeployConfig:
        """The same for one image of C channels and (H, W) pixels."""
        cfg, shape = copy.deepcopy(self.cfg), [1, channels, *size]
        if self.backend == 'coreml':
            cfg.backend_config.model_inputs = [
                dict(input_shapes={self.input_name: {bound: list(shape) for bound in _BOUNDS}})
            ]
        else:
            cfg.ir_config.input_shape = [size[1], size[0]]
        return replace(self, channels=channels, size=size, cfg=cfg)


def read_deploy_config(path: Union[str, Path]) -> DeployConfig:
    """Read a deploy config; mmdeploy itself is not needed.

    Args:
        path: one of ``configs/mmdeploy`` or of mmdeploy's own for mmpretrain.

    Raises:
        ExportError: unreadable, not for classification, for another backend, or with dimensions
            that the backend refuses.
    """
    cfg = _load(path)
    name = Path(path).name
    wanted = dict(type='mmpretrain', task='Classification')
    codebase = cfg.get('codebase_config') or {}
    if any(codebase.get(k) != v for k, v in wanted.items()):
        refuse(f'{name}: codebase_config', dict(codebase), str(wanted), ExportError)
    stated = (cfg.get('backend_config') or {}).get('type')
    backend = one_of(f'{name}: backend_config.type', stated, IR_TYPES, ExportError)
    _check_ir(cfg, name, backend)
    if backend == 'coreml':
        return _core_ml(cfg, name)
    return _onnx(cfg, name, backend)


def _load(path: Union[str, Path]) -> Config:
    if not Path(path).is_file():
        raise ExportError(f'{path}: no such deploy config')
    try:
        cfg = Config.fromfile(str(path))
    # A config is a program: it may raise anything.
    except Exception as error:
        raise ExportError(f'{path}: not a readable deploy config ({one_line(error)})') from error
    # mmdeploy's own ONNX configs still use the older of the two names.
    if cfg.get('ir_config') is None and cfg.get('onnx_config') is not None:
        cfg.ir_config = cfg.onnx_config
    return cfg


def _check_ir(cfg: Config, name: str, backend: str) -> None:
    ir = cfg.get('ir_config') or {}
    if ir.get('type') != IR_TYPES[backend]:
        raise ExportError(
            f'{name}: ir_config.type is {ir.get("type")!r}; {backend} needs {IR_TYPES[backend]!r}'
        )
    for key in ('input_names', 'output_names'):
        names = ir.get(key)
        if not isinstance(names, (list, tuple)) or len(names) != 1:
            raise ExportError(f'{name}: ir_config.{key} is {names!r}; a classifier has exactly one')


def _core_ml(cfg: Config, name: str) -> DeployConfig:
    backend = cfg.backend_config
    convert_to = backend.get('convert_to')
    one_of(f'{name}: convert_to', convert_to, _CORE_ML_SUFFIX, ExportError)
    stated = (backend.get('common_config') or {}).get('compute_precision', 'FLOAT32')
    one_of(f'{name}: compute_precision', stated, _PRECISION, ExportError)
    shape = _input_shape(cfg, name, convert_to)
    return DeployConfig(
        name=name,
        backend='coreml',
        suffix=_CORE_ML_SUFFIX[convert_to],
        # A neuralnetwork takes no precision; mmdeploy leaves it at fp32.
        precision=_PRECISION[stated] if convert_to == 'mlprogram' else 'fp32',
        channels=shape[1],
        size=(shape[2], shape[3]),
        cfg=cfg,
    )


def _input_shape(cfg: Config, name: str, convert_to: str) -> Sequence[int]:
    """The default shape (1, C, H, W) of the only input."""
    inputs = cfg.backend_config.get('model_inputs') or [{}]
    shapes = (inputs[0].get('input_shapes') or {}).get(cfg.ir_config.input_names[0])
    where = f'{name}: input_shapes of {cfg.ir_config.input_names[0]!r}'
    if not isinstance(shapes, Mapping) or any(
        not _whole(shapes.get(bound), 4) for bound in _BOUNDS
    ):
        raise ExportError(
            f'{where} is {shapes!r}; {", ".join(_BOUNDS)} with '
            'four whole numbers (N, C, H, W) are needed'
        )
    low, high, usual = (shapes[bound] for bound in _BOUNDS)
    if convert_to == 'mlprogram' and -1 in (*low, *high):
        raise ExportError(
            f'{where} has -1, an unbounded dimension, which an '
            'mlprogram refuses; give the largest size'
        )
    if usual[0] != 1 or min(usual) < 1:
        raise ExportError(
            f'{where} has default_shape {list(usual)}; one image (1, C, H, W) is needed'
        )
    return usual


def _whole(value: Any, count: int) -> bool:
    """Whether it is a list of so many whole numbers."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(type(i) is int for i in value)
    )


def _onnx(cfg: Config, name: str, backend: str) -> DeployConfig:
    precision = cfg.backend_config.get('precision', 'FP32')
    if precision != 'FP32':
        raise ExportError(f'{name}: precision is {precision!r}; allowed for {backend}: FP32')
    size = cfg.ir_config.get('input_shape')
    if size is not None and not (_whole(size, 2) and min(size) >= 1):
        refuse(f'{name}: ir_config.input_shape', size, '[W, H] or None', ExportError)
    return DeployConfig(
        name=name,
        backend=backend,
        suffix=_SUFFIX[backend],
        precision='fp32',
        channels=None,
        size=None if size is None else (size[1], size[0]),
        cfg=cfg,
    )


@dataclass(frozen=True)
class DeployOptions:
    """A checked request.

    Attributes:
        out: target; its suffix is the deploy config's.
        image_size: (H, W) in pixels in place of the deploy config's; given as one number for a
            square or as two.
        verify_data: 'test' (whole test split), a number of its images, or 'none' (no data set is
            read; seeded noise is compared).
        force: replace an existing target.

    Raises:
        ExportError: states the value and what is allowed.
    """

    out: Path
    image_size: Any = None
    verify_data: Union[int, str] = 100
    force: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        boolean('force', self.force, ExportError)
        out = path('out', self.out, ExportError)
        set_(self, 'out', Path(out).expanduser())
        set_(self, 'image_size', checked_size(self.image_size))
        set_(self, 'verify_data', checked_verify(self.verify_data))

    def check_target(self, deploy: DeployConfig) -> None:
        """Refuse a target of another suffix, or one that is taken.

        Raises:
            ExportError: states the suffix that fits.
        """
        if self.out.suffix != deploy.suffix:
            raise ExportError(
                f'{self.out}: {deploy.name} ({deploy.backend}) needs the '
                f'suffix {deploy.suffix!r}, not {self.out.suffix!r}'
            )
        if not self.out.parent.is_dir():
            raise ExportError(
                f'{self.out}: the folder {self.out.parent} does not exist; make it first'
            )
        check_free(self.out, self.force)
