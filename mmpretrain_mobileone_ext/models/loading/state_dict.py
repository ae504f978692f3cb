"""What a state dict holds: whose names its weights have, and sound values.

A name is read with one :class:`Layout` and written with another. Blocks, branches and shapes are
the same everywhere (paper, arXiv 2206.04040, table 7); stages are numbered 0 (the stem), 1, 2, ...
here. Sources: mmpretrain's ``MobileOne``; timm's ``byobnet``; apple/ml-mobileone.

Values are checked because torch casts what it loads: int8 and complex numbers become float32
without a word, and NaN is copied as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..spec import BRANCH_KINDS, BranchKind


def _rows(kind: BranchKind) -> list[tuple[str, ...]]:
    """The parts of a branch: a convolution and a norm, or a norm alone."""
    names: tuple = (kind.module, kind.apple or kind.module, kind.timm or kind.module)
    if kind.is_list:
        names = tuple(f'{name}.*' for name in names)
    if kind.kernel_size is None:
        return [names]
    parts = ('conv', 'conv', 'conv'), ('norm', 'bn', 'bn')
    return [tuple(map('.'.join, zip(names, own))) for own in parts]


#: Parts of a unit that hold weights: ours, Apple's, timm's. ``*`` stands for a branch's number.
_PARTS = (
    *(row for kind in BRANCH_KINDS for row in _rows(kind)),
    ('branch_reparam', 'reparam_conv', 'reparam_conv'),
    ('se.conv1.conv', 'se.reduce', 'attn.fc1'),
    ('se.conv2.conv', 'se.expand', 'attn.fc2'),
)
_LEAVES = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_STATISTICS = ('running_mean', 'running_var', 'input_max', 'patch_mean')
#: What wrappers and other frameworks put before a network's keys.
_WRAPPERS = re.compile(r'(?:(?:module|model|state_dict|state_dict_ema|timm_model)\.)*')
#: Under these a file may hold its state dict; timm's own order: the averaged weights are the ones
#: that its scores were measured with.
_CONTAINERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
#: What is cast to each other. float8 is not among them: it comes with scales in tensors of their
#: own, without which its numbers are others.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in FLOATS}


@dataclass(frozen=True)
class Address:
    """Where a weight is, in nobody's words.

    ``part`` is a row of the table of parts, or -1 for the classifier's last layer; ``stage`` is 0
    for the stem, which has no ``unit``.
    """

    part: int
    leaf: str
    stage: int = 0
    unit: Optional[int] = None
    branch: Optional[int] = None


@dataclass(frozen=True)
class Layout:
    """How one code base names the weights of MobileOne.

    Args:
        name: 'mmpretrain', 'apple' or 'timm'.
        column: its column in the table of parts.
        body: what precedes the stem's and stages' names.
        stem: module of the stem.
        stage: module of a stage, up to its number.
        first: number of the first stage after the stem.
        head: module of the last, fully connected layer.
    """

    name: str
    column: int
    body: str
    stem: str
    stage: str
    first: int
    head: str

    def read(self, name: str) -> Optional[Address]:
        """The address of a weight of this name; None for other names."""
        owner, _, leaf = name.rpartition('.')
        if leaf not in _LEAVES:
            return None
        if owner == self.head:
            return Address(-1, leaf)
        stage, unit, inside = self._unit_of(owner)
        spelled = re.sub(r'\.\d+\.', '.*.', inside)
        parts = [row[self.column] for row in _PARTS]
        if spelled not in parts:
            return None
        branch = re.search(r'\.(\d+)\.', inside)
        return Address(
            parts.index(spelled), leaf, stage, unit, int(branch.group(1)) if branch else None
        )

    def _unit_of(self, owner: str) -> tuple[int, Optional[int], str]:
        """Stage, unit and the rest of a module's name; no rest: no unit."""
        stem = f'{self.body}{self.stem}.'
        if owner.startswith(stem):
            return 0, None, owner[len(stem) :]
        found = re.fullmatch(rf'{re.escape(self.body + self.stage)}(\d+)\.(\d+)\.(.+)', owner)
        if found is None or int(found.group(1)) < self.first:
            return 0, None, ''
        return int(found.group(1)) - self.first + 1, int(found.group(2)), found.group(3)

    def write(self, at: Address) -> str:
        """The name of the weight at an address."""
        if at.part < 0:
            return f'{self.head}.{at.leaf}'
        part = _PARTS[at.part][self.column].replace('*', str(at.branch))
        unit = f'{self.stage}{at.stage + self.first - 1}.{at.unit}'
        return f'{self.body}{self.stem if at.unit is None else unit}.{part}.{at.leaf}'


MMPRETRAIN = Layout('mmpretrain', 0, 'backbone.', 'stage0', 'stage', 1, 'head.fc')
#: mmpretrain's backbone alone; its keys have no classifier around them.
BACKBONE = Layout('mmpretrain', 0, '', 'stage0', 'stage', 1, 'head.fc')
APPLE = Layout('apple', 1, '', 'stage0', 'stage', 1, 'linear')
TIMM = Layout('timm', 2, '', 'stem', 'stages.', 0, 'head.fc')

LAYOUTS = {layout.name: layout for layout in (MMPRETRAIN, TIMM, APPLE)}


@dataclass(frozen=True)
class Recognized:
    """Whose keys they are, in which form, and what precedes each of them."""

    layout: Layout
    prefix: str
    folded: bool
    has_head: bool

    @property
    def summary(self) -> str:
        """One line for a log."""
        form = 'folded' if self.folded else 'branches'
        head = 'with head' if self.has_head else 'without head'
        after = f', keys after {self.prefix!r}' if self.prefix else ''
        return f'{self.layout.name} MobileOne ({form}, {head}{after})'


def recognize(
    names: Iterable[str], layouts: Iterable[Layout] = (TIMM, APPLE)
) -> Optional[Recognized]:
    """Whose keys these are; None if no layout knows any unit among them.

    Args:
        names: keys of a state dict.
        layouts: those that are looked for, the most specific first.
    """
    names = list(names)
    found = (_in_layout(names, layout) for layout in layouts)
    return next((f for f in found if f is not None), None)


def recognize_any(names: Iterable[str]) -> Optional[Recognized]:
    """As :func:`recognize`, our own keys included."""
    return recognize(names, (TIMM, APPLE, MMPRETRAIN, BACKBONE))


def _in_layout(names: list[str], layout: Layout) -> Optional[Recognized]:
    for name in names:
        prefix = _WRAPPERS.match(name).group()  # type: ignore[union-attr]
        at = layout.read(name[len(prefix) :])
        if at is not None and at.part >= 0:
            inside = [n[len(prefix) :] for n in names if n.startswith(prefix)]
            return Recognized(
                layout,
                prefix,
                any('reparam' in n for n in inside),
                any(n.startswith(f'{layout.head}.') for n in inside),
            )
    return None


def translate(state: Mapping[str, Any], found: Recognized, target: Layout) -> dict[str, Any]:
    """The state dict under the target's names, in the same order.

    Names that the layout does not know stay as they are, so that whoever loads them can refuse
    them.

    Args:
        state: weights by name; values are not looked at.
        found: whose names they are.
        target: whose names they get.
    """
    renamed = {}
    for name, value in state.items():
        at = found.layout.read(name[len(found.prefix) :]) if name.startswith(found.prefix) else None
        renamed[name if at is None else target.write(at)] = value
    return renamed


def unpack(loaded: Any) -> tuple[str, Any]:
    """The state dict in a checkpoint's dict, and the key that held it.

    ``''`` and the dict itself where no key of those in use holds a dict. mmengine's ``state_dict``
    stays where it is, EMA beside it included.
    """
    for key in _CONTAINERS:
        if isinstance(loaded.get(key), Mapping):
            return key, loaded[key]
    return '', loaded


def check_dtypes(given: Mapping[str, Any], own: Mapping[str, Any], prefix: str = '') -> None:
    """Refuse tensors of another kind of number than the network's.

    Floating-point dtypes from 16 to 64 bits go for each other, and so do integers.

    Args:
        given: tensors by key.
        own: of the network; keys that it has not are not looked at.
        prefix: precedes keys in the message.

    Raises:
        CheckpointError: names the key and both dtypes.
    """
    for key, value in given.items():
        mine = own.get(key)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        if value.layout != torch.strided:
            raise CheckpointError(
                f'{prefix}{key} is a {_short(value.layout)} tensor; allowed is a dense one'
            )
        allowed = _kind(mine.dtype)
        if value.dtype not in allowed:
            raise CheckpointError(
                f'{prefix}{key} is {_short(value.dtype)} in the checkpoint and '
                f'{_short(mine.dtype)} in the model; allowed are {", ".join(map(_short, allowed))}'
            )


def _kind(dtype: torch.dtype) -> Sequence[torch.dtype]:
    return next((k for k in (FLOATS, _INTEGERS) if dtype in k), (dtype,))


def _short(value: Any) -> str:
    return str(value).removeprefix('torch.')


def check_finite(module: nn.Module, given: Mapping[str, Any], prefix: str = '') -> None:
    """Refuse weights and running statistics that are NaN or infinite.

    Finite is what is so in the module's own dtype: 1e39 is not in float32. Other buffers, such as
    masks, may hold what they like.

    Args:
        module: gives the names of weights and their dtypes.
        given: tensors by key of the module, of the module's shapes, or its own state dict.
        prefix: precedes keys in the message.

    Raises:
        CheckpointError: names the first keys.
    """
    named = [
        *module.named_parameters(remove_duplicate=False),
        *(
            (k, b)
            for k, b in module.named_buffers(remove_duplicate=False)
            if k.endswith(_STATISTICS)
        ),
    ]
    bad = [prefix + k for k, own in named if k in given and not _is_finite(given[k], own.dtype)]
    if bad:
        more = ', ...' if len(bad) > 3 else ''
        raise CheckpointError(
            f'{len(bad)} of {len(given)} tensors are not finite (they hold '
            f'NaN, infinite or too large numbers): {", ".join(bad[:3])}{more}'
        )


def _is_finite(value: Any, dtype: torch.dtype) -> bool:
    if (
        not isinstance(value, Tensor)
        or value.is_meta
        or not value.numel()
        or value.dtype not in _LARGEST
        or dtype not in _LARGEST
    ):
        return True
    value, top = value.detach(), _LARGEST[dtype]
    # Any NaN or infinity is left in the sum; this is the quick way.
    if top >= _LARGEST[value.dtype] and math.isfinite(value.sum().item()):
        return True
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    low, high = torch.aminmax(value)
    # NaN is neither.
    return -top <= low.item() and high.item() <= top
