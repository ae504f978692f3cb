"""The exported graph: its own module, on its own weights.

Normalizing by (x - mean) / std costs no multiplication: 1/std goes into a
copy of the first convolution. That is exact, since what a convolution pads
with is zero after the mean is subtracted, whatever the scale.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Optional

import torch
from mmpretrain.models.heads import MultiLabelClsHead
from torch import Tensor, nn

from ..errors import ExportError, FoldError, ParityError
from ..models import switch_to_deploy
from ..parity import Tolerance, compare
from .export_source import one_line
from .preprocess import Preprocessing

_EXACT = Tolerance('std folded into the first convolution', 1e-9)


class ExportModel(nn.Module):
    """Pixels (1, C, H, W), minus the mean or not, to probabilities (1, K).

    Args:
        net: classifier in eval mode.
        shift: added to the pixels, one a channel; None: the input has it.
        scale: multiplied with them; None where it is folded.
    """

    shift: Optional[Tensor]
    scale: Optional[Tensor]

    def __init__(self, net: nn.Module, shift: Optional[Tensor],
                 scale: Optional[Tensor]):
        super().__init__()
        self.net = net
        self.register_buffer('shift', shift)
        self.register_buffer('scale', scale)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        if self.shift is not None:
            x = x + self.shift
        if self.scale is not None:
            x = x * self.scale
        return torch.softmax(self.net(x, mode='tensor'), dim=1)


@dataclass(frozen=True)
class Prepared:
    """A network ready for the graph.

    Attributes:
        net: folded copy, eval mode, float32.
        scale: (C,) still to be multiplied, None where it is folded.
        normalization: in words, for the summary.
        notes: what could not be done, in words.
    """
    net: nn.Module
    scale: Optional[tuple[float, ...]]
    normalization: str
    notes: tuple[str, ...] = ()

    def graph(self, mean: Optional[tuple[float, ...]]) -> ExportModel:
        """The module to trace; ``mean`` None where the input subtracts."""
        shift = None
        if mean is not None and any(mean):
            shift = -torch.tensor(mean).view(1, -1, 1, 1)
        scale = None
        if self.scale is not None:
            scale = torch.tensor(self.scale).view(1, -1, 1, 1)
        return ExportModel(self.net, shift, scale).eval()


def count_logits(model: nn.Module, shape: tuple[int, int, int, int]) -> int:
    """K of the network's logits (1, K) for images of ``shape``.

    Raises:
        ExportError: the network does not run on them, or its head gives no
            single-label scores.
    """
    head = getattr(model, 'head', None)
    if isinstance(head, MultiLabelClsHead):
        raise ExportError(
            f'{type(head).__name__} predicts several labels an image; only '
            'heads with one (softmax) can become a Core ML classifier')
    try:
        with torch.no_grad():
            logits = model(torch.zeros(shape), mode='tensor')
    except ExportError:
        raise
    # Forward functions of any network run here.
    except Exception as error:
        raise ExportError(
            f'the network does not run on images {shape} (N, C, H, W): '
            f'{one_line(error)}') from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        kind = tuple(logits.shape) if isinstance(logits, Tensor) \
            else type(logits).__name__
        raise ExportError(f'{type(head).__name__} gives {kind}; scores (N, '
                          'classes) in one tensor are needed')
    return logits.shape[1]


def prepare(model: nn.Module, pre: Preprocessing) -> Prepared:
    """Fold branches and 1/std into a copy of ``model``.

    Where 1/std has no exact fold, it stays a multiplication in the graph.
    """
    notes = []
    try:
        net = switch_to_deploy(model, inplace=False).eval()
    except FoldError as error:
        net = copy.deepcopy(model)
        notes.append(f'branches are kept: {error}')
    if all(s == 1 for s in pre.std):
        return Prepared(net, None, 'none' if not any(pre.mean) else
                        'mean at the input', tuple(notes))
    folded, reason = _fold_std(net, pre)
    if folded is not None:
        return Prepared(folded, None, '1/std in the first convolution',
                        tuple(notes))
    notes.append(f'1/std is a mul in the graph: {reason}')
    scale = tuple(1 / s for s in pre.std)
    return Prepared(net, scale, '1/std as a mul in the graph', tuple(notes))


def _fold_std(net: nn.Module,
              pre: Preprocessing) -> tuple[Optional[nn.Module], str]:
    """A float32 copy with 1/std folded and proved, or None and why not."""
    double = copy.deepcopy(net).double()
    generator = torch.Generator().manual_seed(0)
    pixels = 255 * torch.rand(
        (2, *pre.shape[1:]), generator=generator, dtype=torch.float64)
    shift, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1)
                  for v in (pre.mean, pre.std))
    try:
        centred = pixels - shift
        conv, reason = _first_conv(double, centred / std)
        if conv is None:
            return None, reason
        wanted = _logits(double, centred / std)
        _divide(conv, std.flatten())
        compare(wanted, _logits(double, centred)).require(_EXACT, 'fp64')
    except ParityError as error:
        return None, str(error)
    # A network that cannot run in float64 proves nothing.
    except (RuntimeError, TypeError, ValueError) as error:
        return None, one_line(error)
    return double.float().eval(), ''


@torch.no_grad()
def _logits(net: nn.Module, x: Tensor) -> Tensor:
    return net(x, mode='tensor')


def _first_conv(net: nn.Module,
                x: Tensor) -> tuple[Optional[nn.Conv2d], str]:
    """The one convolution that reads ``x``, or None and why not."""
    consumers: list[nn.Module] = []

    def record(module: nn.Module, args: tuple) -> None:
        if any(a is x for a in args):
            consumers.append(module)

    leaves = [m for m in net.modules() if not any(m.children())]
    hooks = [m.register_forward_pre_hook(record) for m in leaves]
    try:
        _logits(net, x)
    finally:
        for hook in hooks:
            hook.remove()
    # Modules that pass the input on may read it too: the proof decides.
    convs = [m for m in consumers if isinstance(m, nn.Conv2d)]
    if len(convs) != 1:
        kinds = ', '.join(type(m).__name__ for m in consumers) or 'no module'
        return None, f'{kinds} read the input, not one Conv2d'
    conv = convs[0]
    if conv.padding_mode != 'zeros':
        return None, (f'the first convolution pads with '
                      f'{conv.padding_mode!r}')
    return conv, ''


@torch.no_grad()
def _divide(conv: nn.Conv2d, std: Tensor) -> None:
    """Divide the weights (O, I / groups, h, w) by the std of their input."""
    weight = conv.weight
    by_group = std.reshape(conv.groups, -1)
    per_output = by_group.repeat_interleave(
        weight.shape[0] // conv.groups, dim=0)
    conv.weight.copy_(weight / per_output[:, :, None, None])
