"""Which trainings and files are compared, and the config of each training."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmpretrain.registry import HOOKS

from ....errors import MobileOneExtError
from ....models.preprocessing import step_name
from ...training.finetune.settings import set_epochs
from .options import SCHEMES, Bits, QuantizationOptions

_FOLDED = 'FoldedQuantizationHook'
#: Writes the folded network that ``_FOLDED`` begins with.
DEPLOY = 'DeploySwitchHook'
#: Share of a run after which a network of branches is rounded.
_LATE = 2 / 3
#: Of the recipe's rate, for a folded network that is trained already and has no norms.
_TUNING = 0.1


@dataclass(frozen=True)
class Training:
    """One run.

    Attributes:
        name: its folder, below the seed's.
        seed: of its random numbers.
        epochs: that it trains.
        hook: that rounds; None: nothing does.
        start: whose folded network it begins with.
    """

    name: str
    seed: int
    epochs: int
    hook: Optional[dict[str, Any]] = field(default=None, hash=False)
    start: Optional[Training] = None

    @property
    def folder(self) -> str:
        """Relative path of its work dir."""
        return f'seed{self.seed}/{self.name}'

    @property
    def last(self) -> str:
        """File name of its last checkpoint."""
        return f'epoch_{self.epochs}.pth'

    def config(self, recipe: Config, out: Path) -> Config:
        """What it trains, of a float recipe."""
        cfg = copy.deepcopy(recipe)
        set_epochs(cfg, self.epochs)
        cfg.train_cfg.val_interval = self.epochs
        cfg.randomness = dict(seed=self.seed)
        own = [dict(type='EpochSeedHook'), *([self.hook] if self.hook else [])]
        cfg.custom_hooks = [*own, *_without(cfg, ('EpochSeedHook',))]
        if self.start is not None:
            self._fold(cfg, out / self.start.folder / self.start.last)
        return cfg

    def _fold(self, cfg: Config, checkpoint: Path) -> None:
        deploy = checkpoint.with_name(f'{checkpoint.stem}_deploy.pth')
        cfg.load_from = str(deploy.resolve())
        cfg.model.backbone.deploy = True
        cfg.optim_wrapper.optimizer.lr *= _TUNING
        # coreai-opt prepares the network itself, of which an average knows nothing.
        cfg.custom_hooks = _without(cfg, (DEPLOY, 'EMAHook', 'EMALoadHook'))


def _without(cfg: Config, names: Collection[str]) -> list[Any]:
    return [hook for hook in cfg.get('custom_hooks') or () if step_name(hook) not in names]


@dataclass(frozen=True)
class Cell:
    """One file: a method, a scheme and a seed."""

    method: str
    scheme: str
    training: Training
    compress: str

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def folder(self) -> str:
        """Relative path of what is made for it."""
        return f'seed{self.seed}/files/{self.method}-{self.scheme}'


def cells(options: QuantizationOptions, epochs: int) -> Iterator[Cell]:
    """All files that are asked for; all of one seed before the next.

    Raises:
        MobileOneExtError: a method that cannot be run here, or with so few epochs.
    """
    if 'folded' in options.methods and _FOLDED not in HOOKS:
        raise MobileOneExtError(
            f'the method folded needs {_FOLDED}; leave it out: --methods '
            f'{" ".join(m for m in options.methods if m != "folded")}'
        )
    if epochs < 2:
        raise MobileOneExtError(f'epochs={epochs}; at least 2 are needed, to round after the first')
    for seed in options.seeds:
        whole = Training('float', seed, epochs)
        for method in options.methods:
            if method == 'float':
                yield Cell(method, 'fp16', whole, 'none')
                continue
            for name in options.schemes:
                yield from _cell(method, name, whole)


def _cell(method: str, name: str, whole: Training) -> Iterator[Cell]:
    bits = SCHEMES[name]
    if method == 'after':
        if bits.rounded_after:
            yield Cell(method, name, whole, bits.rounded_after)
        return
    yield Cell(method, name, _training(method, name, bits, whole), 'trained')


def _training(method: str, name: str, bits: Bits, whole: Training) -> Training:
    seed, epochs = whole.seed, whole.epochs
    rounds: dict[str, Any] = dict(weights=bits.weights, activations=bits.activations)
    if method == 'folded':
        half = Training('half', seed, epochs // 2)
        hook: dict[str, Any] = dict(type=_FOLDED, preset=name)
        return Training(f'folded-{name}', seed, epochs - half.epochs, hook, half)
    begin = int(epochs * _LATE) if method == 'late' else 0
    hook = dict(type='QuantizationHook', **rounds, start=begin)
    return Training(f'{method}-{name}', seed, epochs, hook)
