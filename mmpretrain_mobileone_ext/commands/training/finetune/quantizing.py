"""What ``--quantize`` and ``--teacher`` add to a run: hooks, and what is exported."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmpretrain.registry import HOOKS
from torch import nn

from ....coreml.compress.trained import Rounding, oldest_target
from ....errors import MobileOneExtError
from ....models.preprocessing import step_name
from ....models.quantization import Quantizer, add_quantizers, quantizers
from .settings import has_blocks

#: What ``--quantize`` may be: bits of weights and of activations.
QUANTIZED: Mapping[str, tuple[int, Optional[int]]] = {
    '8': (8, None),
    '4': (4, None),
    '8a8': (8, 8),
    '4a8': (4, 8),
}
#: The scheme that stores what was trained.
TRAINED = 'trained'
#: The format whose files say what system they need.
_STATES_SYSTEM = 'mlpackage'
_QUANTIZES, _TEACHES = 'QuantizationHook', 'DistillationHook'
#: Share of a run after which rounding begins.
_START = 2 / 3


def check_quantize(args: argparse.Namespace) -> None:
    """Refuse another way to store weights than the one that is trained.

    Raises:
        MobileOneExtError: both options are given.
    """
    if args.quantize and args.compress not in (None, TRAINED):
        raise MobileOneExtError(
            f'--quantize {args.quantize} exports the integers that are trained, and --compress '
            f'{args.compress} would round them again; leave one of them out'
        )


def stored_as(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the export that say how weights are stored, where any are asked for."""
    if not args.quantize:
        return dict(compress=args.compress) if args.compress else {}
    if args.format != _STATES_SYSTEM:  # the other one has all of it
        return dict(compress=TRAINED)
    weights, activations = QUANTIZED[args.quantize]
    rounding = Rounding((weights,), (activations,) if activations else ())
    return dict(compress=TRAINED, deployment_target=oldest_target(rounding))


def add_hooks(cfg: Config, quantize: Optional[str], teacher: Optional[Sequence[str]]) -> None:
    """Let a run round what it trains, for the last third of it, and learn from a teacher.

    Args:
        cfg: of a run, its length set; is changed. A hook of the recipe that does the same goes.
        quantize: a name of :data:`QUANTIZED`.
        teacher: config and checkpoint.

    Raises:
        MobileOneExtError: the network has no unit of MobileOne to round.
    """
    if quantize:
        if not has_blocks(cfg):
            raise MobileOneExtError(
                f'{cfg.filename}: --quantize rounds the units of a ConfigurableMobileOne, and a '
                f'{step_name(cfg.model.backbone)} has none'
            )
        _put(cfg, _rounding(cfg, *QUANTIZED[quantize]))
    if teacher:
        config, checkpoint = map(_settled, teacher)
        _put(cfg, dict(type=_TEACHES, teacher=config, checkpoint=checkpoint))


def _rounding(cfg: Config, weights: int, activations: Optional[int]) -> dict[str, Any]:
    """In whole epochs, of which the last one is always rounded."""
    epochs = cfg.train_cfg.get('max_epochs')
    start = _START if epochs is None else int(epochs * _START)
    return dict(type=_QUANTIZES, weights=weights, activations=activations, start=start)


def _put(cfg: Config, hook: dict[str, Any]) -> None:
    others = [h for h in cfg.get('custom_hooks') or () if step_name(h) != hook['type']]
    cfg.custom_hooks = [hook, *others]


def _settled(path: str) -> str:
    """A file wherever the run is gone on with; a URL or a name of a package as it is."""
    found = Path(path).expanduser()
    return str(found.resolve()) if found.exists() else path


def quantized(cfg: Config, model: nn.Module) -> nn.Module:
    """A network as a run of ``cfg`` will have it at its end: with all that it rounds."""
    for hook in cfg.get('custom_hooks') or ():
        if step_name(hook) == _QUANTIZES:
            options = HOOKS.build(dict(hook)).options
            add_quantizers(model, **options)
    for own in quantizers(model):
        own.phase = Quantizer.ON
    return model
