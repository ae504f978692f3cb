"""The exported graph: a copy of the network, folded, with 1/std inside.

Normalizing by (x - mean) / std costs no multiplication: 1/std goes into a copy of the first
convolution. That is exact, since what a convolution pads with is zero after the mean is subtracted,
whatever the scale.

A classifier gives probabilities. A feature extractor gives the maps of a backbone: of a classifier,
detector or segmenter of OpenMMLab, or of a network that is one itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Optional, TypeVar

import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor, nn

from ..coreml.compress.given import TrainedLayer
from ..coreml.compress.trained import Grids, RoundedInput, scaled_alike, settle, trained_layers
from ..errors import ExportError, FoldError, ParityError
from ..models import switch_to_deploy
from ..models.preprocessing import Preprocessing, read_preprocessing
from ..utils.parity import Tolerance, worst
from ..utils.text import one_line
from .source import backbone_of

_EXACT = Tolerance('std folded into the first convolution', 1e-9)

T = TypeVar('T')
Shape = tuple[int, int, int, int]
#: A network and normalized images (N, C, H, W) to its outputs.
Run = Callable[[nn.Module, Tensor], Any]


def logits(net: nn.Module, x: Tensor) -> Tensor:
    """Class scores (N, K) of a classifier."""
    return net(x, mode='tensor')


def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """Softmax of :func:`logits`."""
    return torch.softmax(logits(net, x), dim=1)


class ExportModel(nn.Module):
    """Pixels (N, C, H, W), minus the mean or not, to the outputs.

    Args:
        net: in eval mode.
        run: calls it on normalized images.
        shift: added to the pixels, one a channel; None: the input has it.
        scale: multiplied with them; None where it is folded.
    """

    shift: Optional[Tensor]
    scale: Optional[Tensor]

    def __init__(self, net: nn.Module, run: Run, shift: Optional[Tensor], scale: Optional[Tensor]):
        super().__init__()
        self.net = net
        self.run = run
        self.register_buffer('shift', shift)
        self.register_buffer('scale', scale)

    def forward(self, pixels: Tensor) -> Any:
        x = pixels
        if self.shift is not None:
            x = x + self.shift
        if self.scale is not None:
            x = x * self.scale
        return self.run(self.net, x)


@dataclass(frozen=True)
class Prepared:
    """A network ready for the graph.

    Attributes:
        net: folded copy, eval mode, float32: a classifier or a backbone.
        scale: (C,) still to be multiplied, None where it is folded.
        normalization: in words, for the summary.
        notes: what could not be done, in words.
        features: names of the outputs of a backbone; none of a classifier.
        run: calls ``net`` on normalized images.
        grids: of the weights of layers that were trained rounded, by their names in ``net``.
        made: what :meth:`once` made.
    """

    net: nn.Module
    scale: Optional[tuple[float, ...]]
    normalization: str
    notes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    run: Run = probabilities
    grids: Grids = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def trained(self) -> tuple[TrainedLayer, ...]:
        """The layers whose weights were trained rounded, with their integers."""
        return trained_layers(self.net, self.grids)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once a key: precision auto converts a network several times."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def graph(self, mean: Optional[tuple[float, ...]]) -> ExportModel:
        """The module to trace; ``mean`` None where the input subtracts."""
        shift = None
        if mean is not None and any(mean):
            shift = -torch.tensor(mean).view(1, -1, 1, 1)
        scale = None
        if self.scale is not None:
            scale = torch.tensor(self.scale).view(1, -1, 1, 1)
        return ExportModel(self.net, self.run, shift, scale).eval()


def count_logits(model: nn.Module, shape: Shape) -> int:
    """K of the network's logits (1, K) for images of ``shape``.

    Raises:
        ExportError: the network does not run on them, or its head gives no single-label scores.
    """
    head = getattr(model, 'head', None)
    if isinstance(head, MultiLabelClsHead):
        raise ExportError(
            f'{type(head).__name__} predicts several labels an image; only '
            'heads with one (softmax) can become a Core ML classifier'
        )
    scores = _on_zeros(lambda x: logits(model, x), shape, 'the network')
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise ExportError(
            f'{type(head).__name__} gives {_kind(scores)}; scores (N, classes) in one tensor '
            'are needed'
        )
    return scores.shape[1]


def _on_zeros(network: Callable[[Tensor], Any], shape: Shape, what: str) -> Any:
    try:
        with torch.no_grad():
            return network(torch.zeros(shape))
    except ExportError:
        raise
    # Forward functions of any network run here.
    except Exception as error:
        raise ExportError(
            f'{what} does not run on images {shape} (N, C, H, W): {one_line(error)}'
        ) from error


def prepare(net: nn.Module, pre: Preprocessing, run: Run = logits) -> Prepared:
    """Fold branches and 1/std into a copy of a network.

    Where 1/std has no exact fold, it stays a multiplication in the graph.

    Args:
        net: a classifier, or what ``run`` can call; never changed.
        run: outputs by which the fold of 1/std is proved.
    """
    notes = []
    try:
        folded = switch_to_deploy(net, inplace=False).eval()
    except FoldError as error:
        folded = copy.deepcopy(net).eval()
        notes.append(f'branches are kept: {error}')
    grids = settle(folded)
    made = partial(Prepared, grids=grids)
    if all(s == 1 for s in pre.std):
        words = 'mean at the input' if any(pre.mean) else 'none'
        return made(folded, None, words, tuple(notes))
    scaled, reason = _fold_std(folded, pre, run, grids)
    if scaled is not None:
        return made(scaled, None, '1/std in the first convolution', tuple(notes))
    notes.append(f'1/std is a mul in the graph: {reason}')
    scale = tuple(1 / s for s in pre.std)
    return made(folded, scale, '1/std as a mul in the graph', tuple(notes))


@torch.no_grad()
def _fold_std(
    net: nn.Module, pre: Preprocessing, run: Run, grids: Grids
) -> tuple[Optional[nn.Module], str]:
    """A float32 copy with 1/std folded and proved, or None and why not."""
    double = copy.deepcopy(net).double()
    generator = torch.Generator().manual_seed(0)
    pixels = 255 * torch.rand((2, *pre.shape[1:]), generator=generator, dtype=torch.float64)
    shift, std = (
        torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (pre.mean, pre.std)
    )
    centred = pixels - shift
    try:
        conv, reason = _first_conv(double, centred / std, run)
        if conv is None:
            return None, reason
        if not scaled_alike(double, grids, conv, pre.std):
            return None, 'the first convolution has integers that were trained'
        wanted = run(double, centred / std)
        _divide(conv, std.flatten())
        worst(wanted, run(double, centred)).require(_EXACT, 'fp64')
    except ParityError as error:
        return None, str(error)
    # A network that cannot run in float64 proves nothing.
    except (RuntimeError, TypeError, ValueError) as error:
        return None, one_line(error)
    return double.float().eval(), ''


def _first_conv(net: nn.Module, x: Tensor, run: Run) -> tuple[Optional[nn.Conv2d], str]:
    """The one convolution that reads ``x``, or None and why not."""
    consumers: list[nn.Module] = []

    def record(module: nn.Module, args: tuple) -> None:
        if any(a is x for a in args):
            consumers.append(module)

    leaves = [m for m in net.modules() if not any(m.children()) or isinstance(m, RoundedInput)]
    hooks = [m.register_forward_pre_hook(record) for m in leaves]
    try:
        run(net, x)
    finally:
        for hook in hooks:
            hook.remove()
    if any(isinstance(m, RoundedInput) for m in consumers):
        return None, 'what the first convolution reads is rounded'
    # Modules that pass the input on may read it too: the proof decides.
    convs = [m for m in consumers if isinstance(m, nn.Conv2d)]
    if len(convs) != 1:
        kinds = ', '.join(type(m).__name__ for m in consumers) or 'no module'
        return None, f'{kinds} read the input, not one Conv2d'
    conv = convs[0]
    if conv.padding_mode != 'zeros':
        return None, (f'the first convolution pads with {conv.padding_mode!r}')
    return conv, ''


@torch.no_grad()
def _divide(conv: nn.Conv2d, std: Tensor) -> None:
    """Divide the weights (O, I / groups, h, w) by the std of their input."""
    weight = conv.weight
    by_group = std.reshape(conv.groups, -1)
    per_output = by_group.repeat_interleave(weight.shape[0] // conv.groups, dim=0)
    conv.weight.copy_(weight / per_output[:, :, None, None])


def feature_maps(model: nn.Module, shape: Shape) -> dict[str, Tensor]:
    """The outputs (N, C, H, W) for black images of ``shape`` (N, C, H, W).

    Returns:
        ``feature_<index>``, the index as in ``out_indices``, to the map.

    Raises:
        ExportError: the backbone does not run on them, or returns something else than one map (N,
            C, H, W) for each of its ``out_indices``.
    """
    backbone = backbone_of(model)
    found = _on_zeros(lambda x: maps(backbone, x), shape, 'the backbone')
    return {f'feature_{i}': value for i, value in zip(_indices(backbone, len(found)), found)}


def maps(backbone: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Feature maps (N, C, H, W) of normalized images (N, C, H, W).

    Raises:
        ExportError: the backbone returns something else.
    """
    found = backbone(x)
    values = (found,) if isinstance(found, Tensor) else found
    if (
        not isinstance(values, (list, tuple))
        or not values
        or not all(isinstance(v, Tensor) and v.dim() == 4 for v in values)
    ):
        raise ExportError(
            f'{type(backbone).__name__} returns {_kind(found)}; a feature '
            'extractor needs maps (N, C, H, W), in a sequence or alone'
        )
    return tuple(values)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(_kind(v) for v in value)}]'
    return type(value).__name__


def _indices(backbone: nn.Module, count: int) -> list[int]:
    """Stages of the outputs, which backbones return in stage order."""
    given: Any = getattr(backbone, 'out_indices', None)
    if given is None:
        return list(range(count))
    indices = {int(i) for i in ([given] if isinstance(given, int) else given)}
    stages = _count_stages(backbone)
    if stages is not None:
        indices = {i + stages if i < 0 else i for i in indices}
    if len(indices) != count or min(indices) < 0:
        raise ExportError(
            f'{type(backbone).__name__} has out_indices={given!r} and returns {count} feature '
            'maps; one for each index, 0 or more, is needed to name them'
        )
    return sorted(indices)


def _count_stages(backbone: nn.Module) -> Optional[int]:
    stages: Any = getattr(backbone, 'num_stages', None)
    if isinstance(stages, int):
        return stages
    stages = getattr(backbone, 'stages', None)
    return len(stages) if hasattr(stages, '__len__') else None


def prepare_features(model: nn.Module, pre: Preprocessing) -> Prepared:
    """Fold branches and 1/std into a copy of the backbone of ``model``.

    Args:
        model: classifier, detector, segmenter or bare backbone; not changed.
        pre: what :func:`feature_preprocessing` gives.

    Raises:
        ExportError: as :func:`feature_maps`.
    """
    names = tuple(feature_maps(model, pre.shape))
    return replace(prepare(backbone_of(model), pre, maps), features=names, run=maps)


def feature_network(
    model: nn.Module, names: Sequence[str], dtype: torch.dtype = torch.float32
) -> Callable[[Tensor], dict[str, Tensor]]:
    """What a program must reproduce, by the model's own preprocessing.

    Args:
        model: as loaded, in eval mode; without a ``data_preprocessor`` the pixels go in as they
            are.
        names: ``Prepared.features``.
        dtype: of the model's weights.

    Returns:
        Images (N, C, H, W), uint8 in data order, to maps (N, C, H, W), in ``dtype``, by name.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)

    def normalized(image: Tensor) -> Tensor:
        return image if preprocessor is None else preprocessor({'inputs': image}, False)['inputs']

    @torch.no_grad()
    def network(batch: Tensor) -> dict[str, Tensor]:
        # mmsegmentation's takes one image at a time outside of training.
        images = [normalized(image).to(dtype) for image in batch.split(1)]
        return dict(zip(names, maps(backbone_of(model), torch.cat(images))))

    return network


def feature_preprocessing(
    model: nn.Module, channels: int, size: tuple[int, int], data_order: Optional[str]
) -> Preprocessing:
    """What is baked in before a backbone, by the ``data_preprocessor``.

    Args:
        model: without one, or with mmengine's plain one, nothing is baked in: the program takes
            what the backbone takes.
        channels, size: C and (H, W) of the images.
        data_order: 'RGB' or 'BGR', None where it is not known. OpenMMLab loads BGR: that is assumed
            for detectors and segmenters.

    Raises:
        ExportError: something in it cannot be baked into a program.
    """
    given = getattr(model, 'data_preprocessor', None)
    if isinstance(given, ClsDataPreprocessor):
        return read_preprocessing(given, channels, size, data_order)
    if given is None or type(given) is BaseDataPreprocessor:
        plain = ClsDataPreprocessor(to_rgb=False)
        return read_preprocessing(plain, channels, size, data_order)
    alike = _as_classifiers(given, size)
    return read_preprocessing(alike, channels, size, data_order or 'BGR')


def _as_classifiers(given: Any, size: tuple[int, int]) -> nn.Module:
    """A detector's or segmenter's preprocessing, as a classifier has it."""
    # mmsegmentation's is no ImgDataPreprocessor, but has the same parts.
    flips = getattr(given, '_channel_conversion', getattr(given, 'channel_conversion', None))
    if (
        not isinstance(given, BaseDataPreprocessor)
        or flips is None
        or not hasattr(given, '_enable_normalize')
    ):
        raise ExportError(
            f'data_preprocessor is a {type(given).__name__}; allowed: '
            "mmengine's ImgDataPreprocessor and those of mmpretrain, "
            'mmdetection and mmsegmentation'
        )
    divisor = getattr(given, 'pad_size_divisor', 1)
    if not isinstance(given, ImgDataPreprocessor):
        padding = getattr(given, 'test_cfg', None) or {}
        _check_fixed_size(padding.get('size'), size)
        divisor = padding.get('size_divisor') or 1
    values: dict[str, Any] = {}
    if given._enable_normalize:
        values = dict(mean=given.mean.flatten().tolist(), std=given.std.flatten().tolist())
    return ClsDataPreprocessor(to_rgb=bool(flips), pad_size_divisor=divisor, **values)


def _check_fixed_size(fixed: Any, size: tuple[int, int]) -> None:
    if fixed is not None and tuple(fixed) != tuple(size):
        raise ExportError(
            f'data_preprocessor pads images to {tuple(fixed)} (H, W), but '
            f'the program takes {size}; padding cannot be baked in'
        )
