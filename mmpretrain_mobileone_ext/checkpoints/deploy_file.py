"""Fold a training checkpoint into a deploy file with provenance."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

from mmengine.model import is_model_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..errors import CheckpointError
from ..models import verified_switch_to_deploy
from ..models.deploy import form_of
from ..utils.checks import boolean
from ..utils.files import file_sha256, free_target
from ..utils.parity import Tolerance
from ..utils.version import __version__
from .load import CONFIG_TEXT, load_checkpoint_file, save_checkpoint_atomic

_PACKAGES = ('torch', 'mmengine', 'mmpretrain')


def provenance(
    source: Optional[Union[str, Path]] = None,
    config_text: Optional[str] = None,
    parity: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Describe the making of a checkpoint, for its ``meta``.

    Args:
        source (str or Path, optional): The checkpoint it was made from.
        config_text (str, optional): The run's config. Kept under ``'config_text'``, because
            mmengine executes ``meta['config']``.
        parity (mapping, optional): Tolerances and measured differences by name; numbers (also
            numpy's and 0-d tensors), strings, booleans, None, and lists and mappings of them.

    Returns:
        dict: ``versions`` by package, ``created`` (ISO 8601, UTC), and
        ``source_file``, ``source_sha256``, ``config_text``, ``parity`` as given; only str, int,
        float, bool, None, list and dict.

    Raises:
        CheckpointError: If the source is no file or a parity value is not plain.
    """
    record: Dict[str, Any] = {
        'versions': {
            'mmpretrain_mobileone_ext': __version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }
    if source is not None:
        record['source_file'] = Path(source).name
        record['source_sha256'] = file_sha256(source)
    if config_text is not None:
        record[CONFIG_TEXT] = str(config_text)
    if parity is not None:
        record['parity'] = _plain(parity, 'parity')
    return record


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'unknown'  # a source tree on the path, never installed


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f'{where}.{k}') for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f'{where}[{i}]') for i, v in enumerate(value)]
    if hasattr(value, 'item') and getattr(value, 'shape', None) == ():
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise CheckpointError(
        f'provenance: {where} must be a number, str, bool, '
        f'None, list or dict, not {type(value).__name__}'
    )


def deploy_path(checkpoint: Union[str, Path]) -> Path:
    """``epoch_10.pth`` -> ``epoch_10_deploy.pth`` in the same folder."""
    path = Path(checkpoint)
    return path.with_name(f'{path.stem}_deploy{path.suffix}')


def unwrap(model: Any) -> nn.Module:
    """The module inside a (distributed) wrapper."""
    return model.module if is_model_wrapper(model) else model


def write_deploy_file(
    model: nn.Module,
    checkpoint: Union[str, Path],
    out: Union[str, Path, None] = None,
    *,
    inputs: Any = None,
    tolerance: Union[float, Tolerance, None] = None,
    config_text: Optional[str] = None,
    force: bool = False,
) -> Path:
    """Fold ``checkpoint``, verify it, and write it beside its source.

    The file holds folded weights (the averaged ones where the run had EMA: mmengine saves those as
    ``state_dict``), the data set's meta and where they came from; no optimizer, no history.

    Args:
        model: a model in branch form that fits the checkpoint; not changed.
        checkpoint: training checkpoint.
        out: target, :func:`deploy_path` when None.
        inputs: normalized images (N, C, H, W) for the comparison, seeded noise when None.
        tolerance: as of :func:`verified_switch_to_deploy`.
        config_text: the run's config, kept as text.
        force: replace an existing ``out``; never the checkpoint itself.

    Raises:
        CheckpointError: the checkpoint is unsafe or does not fit, ``model`` is folded already, or
            ``out`` exists.
        ParityError: the folded form differs; nothing is written.
    """
    boolean('force', force, CheckpointError)
    target = free_target(out or deploy_path(checkpoint), checkpoint, force)
    _require_branches(model)
    loaded = load_checkpoint_file(checkpoint)
    meta = loaded.get('meta', {})
    state = loaded.get('state_dict', loaded)
    own = copy.deepcopy(unwrap(model)).to('cpu')
    try:
        load_state_dict(own, state, strict=True)
    except RuntimeError as error:
        if 'deploy' in meta or any('branch_reparam.' in key for key in state):
            raise CheckpointError(
                f'{checkpoint} is folded already; there is nothing left to fold'
            ) from error
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'{checkpoint}: {reason}') from error
    if inputs is not None:
        inputs = inputs.cpu()
    folded, parity = verified_switch_to_deploy(own, inputs, inplace=False, tolerance=tolerance)
    kept = {k: meta[k] for k in ('dataset_meta', 'epoch', 'iter', 'CLASSES') if k in meta}
    record = provenance(
        checkpoint, config_text or meta.get('cfg') or meta.get(CONFIG_TEXT), parity.to_dict()
    )
    return save_checkpoint_atomic(
        {'meta': {**kept, 'deploy': record}, 'state_dict': folded.state_dict()}, target
    )


def _require_branches(model: nn.Module) -> None:
    """A folded model would be compared with itself."""
    if form_of(model) == 'folded':
        raise CheckpointError(
            'the model is folded already, so the fold cannot be verified; '
            'build it from the training config (deploy=False)'
        )
