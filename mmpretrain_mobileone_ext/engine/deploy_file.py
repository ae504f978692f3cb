"""Fold a training checkpoint into a deploy file with provenance."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.model import is_model_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..errors import CheckpointError
from ..models import MobileOneBlock, verified_switch_to_deploy
from ..option_checks import boolean
from ..parity import Tolerance
from .checkpoint import (
    free_target,
    load_checkpoint_file,
    save_checkpoint_atomic,
)
from .disarm import CONFIG_TEXT
from .provenance import provenance


def deploy_path(checkpoint: Union[str, Path]) -> Path:
    """``epoch_10.pth`` -> ``epoch_10_deploy.pth`` in the same folder."""
    path = Path(checkpoint)
    return path.with_name(f'{path.stem}_deploy{path.suffix}')


def unwrap(model: Any) -> nn.Module:
    """The module inside a (distributed) wrapper."""
    return model.module if is_model_wrapper(model) else model


def write_deploy_file(model: nn.Module,
                      checkpoint: Union[str, Path],
                      out: Union[str, Path, None] = None,
                      *,
                      inputs: Any = None,
                      tolerance: Union[float, Tolerance, None] = None,
                      config_text: Optional[str] = None,
                      force: bool = False) -> Path:
    """Fold ``checkpoint``, verify it, and write it beside its source.

    The file holds folded weights (the averaged ones where the run had EMA:
    mmengine saves those as ``state_dict``), the data set's meta and where
    they came from; no optimizer, no history.

    Args:
        model: a model in branch form that fits the checkpoint; not changed.
        checkpoint: training checkpoint.
        out: target, :func:`deploy_path` when None.
        inputs: normalized images (N, C, H, W) for the comparison, seeded
            noise when None.
        tolerance: as of :func:`verified_switch_to_deploy`.
        config_text: the run's config, kept as text.
        force: replace an existing ``out``; never the checkpoint itself.

    Raises:
        CheckpointError: the checkpoint is unsafe or does not fit, ``model``
            is folded already, or ``out`` exists.
        ParityError: the folded form differs; nothing is written.
    """
    boolean('force', force, CheckpointError)
    target = free_target(out or deploy_path(checkpoint), checkpoint, force)
    _require_branches(model)
    loaded = load_checkpoint_file(checkpoint)
    meta = loaded.get('meta', {})
    own = copy.deepcopy(unwrap(model)).to('cpu')
    try:
        load_state_dict(own, loaded.get('state_dict', loaded), strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'{checkpoint}: {reason}') from error
    if inputs is not None:
        inputs = inputs.cpu()
    folded, parity = verified_switch_to_deploy(
        own, inputs, inplace=False, tolerance=tolerance)
    kept = {
        k: meta[k]
        for k in ('dataset_meta', 'epoch', 'iter', 'CLASSES') if k in meta
    }
    record = provenance(
        checkpoint,
        config_text or meta.get('cfg') or meta.get(CONFIG_TEXT),
        parity.to_dict())
    return save_checkpoint_atomic(
        {
            'meta': {
                **kept, 'deploy': record
            },
            'state_dict': folded.state_dict()
        }, target)


def _require_branches(model: nn.Module) -> None:
    """A folded model would be compared with itself."""
    blocks = [m for m in model.modules() if isinstance(m, MobileOneBlock)]
    if blocks and all(b.deploy for b in blocks):
        raise CheckpointError(
            'the model is folded already, so the fold cannot be verified; '
            'build it from the training config (deploy=False)')
