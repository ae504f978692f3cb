"""Names of the same weights in three code bases, as data.

A name is read with one :class:`Layout` and written with another. Blocks,
branches and shapes are the same everywhere (paper, arXiv 2206.04040, table
7); stages are numbered 0 (the stem), 1, 2, ... here.

Sources: mmpretrain's ``MobileOne``; timm's ``byobnet``; apple/ml-mobileone.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

#: Parts of a unit that hold weights: ours, Apple's, timm's. ``*`` stands for
#: a branch's number.
_PARTS = (
    ('branch_conv_list.*.conv', 'rbr_conv.*.conv', 'conv_kxk.*.conv'),
    ('branch_conv_list.*.norm', 'rbr_conv.*.bn', 'conv_kxk.*.bn'),
    ('branch_scale.conv', 'rbr_scale.conv', 'conv_scale.conv'),
    ('branch_scale.norm', 'rbr_scale.bn', 'conv_scale.bn'),
    ('branch_norm', 'rbr_skip', 'identity'),
    ('branch_reparam', 'reparam_conv', 'reparam_conv'),
    ('se.conv1.conv', 'se.reduce', 'attn.fc1'),
    ('se.conv2.conv', 'se.expand', 'attn.fc2'),
)
_LEAVES = ('weight', 'bias', 'running_mean', 'running_var',
           'num_batches_tracked')


@dataclass(frozen=True)
class Address:
    """Where a weight is, in nobody's words.

    ``part`` is a row of the table of parts, or -1 for the classifier's last
    layer; ``stage`` is 0 for the stem, which has no ``unit``.
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
        found = self._unit_of(owner)
        if found is None:
            return None
        stage, unit, rest = found
        spelled = re.sub(r'\.\d+\.', '.*.', rest)
        digits = re.search(r'\.(\d+)\.', rest)
        rows = [row[self.column] for row in _PARTS]
        if spelled not in rows:
            return None
        return Address(
            rows.index(spelled), leaf, stage, unit,
            int(digits.group(1)) if digits else None)

    def _unit_of(self, owner: str) -> Optional[tuple]:
        """Stage, unit and the rest of a module's name."""
        if owner.startswith(f'{self.body}{self.stem}.'):
            return 0, None, owner[len(f'{self.body}{self.stem}.'):]
        found = re.fullmatch(
            rf'{re.escape(self.body + self.stage)}(\d+)\.(\d+)\.(.+)', owner)
        if found is None or int(found.group(1)) < self.first:
            return None
        stage = int(found.group(1)) - self.first + 1
        return stage, int(found.group(2)), found.group(3)

    def write(self, at: Address) -> str:
        """The name of the weight at an address."""
        if at.part < 0:
            return f'{self.head}.{at.leaf}'
        part = _PARTS[at.part][self.column].replace('*', str(at.branch))
        unit = f'{self.stem}' if at.unit is None else (
            f'{self.stage}{at.stage + self.first - 1}.{at.unit}')
        return f'{self.body}{unit}.{part}.{at.leaf}'


MMPRETRAIN = Layout('mmpretrain', 0, 'backbone.', 'stage0', 'stage', 1,
                    'head.fc')
#: mmpretrain's backbone alone; its keys have no classifier around them.
BACKBONE = Layout('mmpretrain', 0, '', 'stage0', 'stage', 1, 'head.fc')
APPLE = Layout('apple', 1, '', 'stage0', 'stage', 1, 'linear')
TIMM = Layout('timm', 2, '', 'stem', 'stages.', 0, 'head.fc')

LAYOUTS = {layout.name: layout for layout in (MMPRETRAIN, TIMM, APPLE)}
