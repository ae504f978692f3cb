"""Write a checkpoint under the names of another code base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmpretrain.apis import ModelHub
from torch import nn

from ...checkpoints.deploy_file import provenance
from ...checkpoints.load import load_checkpoint_file, save_checkpoint_atomic
from ...errors import CheckpointError
from ...models import ConfigurableMobileOne, DeployableClassifier, verified_switch_to_deploy
from ...models.loading.state_dict import (
    BACKBONE,
    LAYOUTS,
    MMPRETRAIN,
    Recognized,
    recognize_any,
    translate,
)
from ...models.spec import PRESETS
from ...utils.checks import boolean, one_of
from ...utils.config import read_config
from ...utils.files import free_target, write_json
from ...utils.text import one_line

PathLike = Union[str, Path]


def convert_checkpoint(
    source: PathLike,
    to: str,
    out: PathLike,
    *,
    arch: Optional[str] = None,
    fold: bool = False,
    force: bool = False,
) -> Path:
    """Rewrite ``source`` for ``to`` and say in the file where it is from.

    The weights have to fill the network, whole, before anything is written. Without ``fold`` they
    are copied bit by bit.

    Args:
        source: weights of ours, mmpretrain, Apple or timm, in any form.
        to: 'mmpretrain', 'timm' or 'apple'. Apple's code takes a plain state dict, so its
            provenance is ``OUT.provenance.json``.
        out: file to write, a torch file.
        arch: 's0' ... 's4', a config file or a name of ``list_models``; None finds it among s0 to
            s4.
        fold: write the folded form, verified against the branches.
        force: replace an existing ``out``.

    Returns:
        ``out``.

    Raises:
        CheckpointError: the weights are nobody's, do not fit, ``out`` exists or is the source.
        ParityError: the folded form differs; nothing is written.
    """
    boolean('fold', fold, CheckpointError)
    boolean('force', force, CheckpointError)
    target = _writable(source, out, to, force)
    loaded = load_checkpoint_file(source)
    state = loaded.get('state_dict', loaded)
    found = recognize_any(state)
    if found is None:
        raise CheckpointError(
            f'{source}: not weights of MobileOne that mmpretrain, Apple or '
            f'timm name; its first key is {next(iter(state))!r}'
        )
    # Without what stands outside the network: another wrapper's buffers.
    inside = {k: v for k, v in state.items() if k.startswith(found.prefix)}
    ours = translate(inside, found, BACKBONE if found.layout == BACKBONE else MMPRETRAIN)
    arch = arch or matching_arch(ours)
    model = filled_model(ours, found, arch)
    parity = None
    if fold and not found.folded:
        folded, measured = verified_switch_to_deploy(model)
        ours, parity = folded.state_dict(), measured.to_dict()
    record = {**provenance(source, parity=parity), 'source_layout': found.summary, 'arch': arch}
    known = recognize_any(ours)
    assert known is not None, 'our own names'
    return _write(translate(ours, known, LAYOUTS[to]), to, target, record)


def _writable(source: PathLike, out: PathLike, to: str, force: bool) -> Path:
    target = free_target(out, source, force)
    one_of('to', to, LAYOUTS, CheckpointError)
    if target.suffix == '.safetensors':
        raise CheckpointError(
            f'{target}: writes files of torch.save, not safetensors; name it .pth'
        )
    return target


def matching_arch(ours: dict) -> Optional[str]:
    """The preset whose pointwise widths and SE a state dict has, if any.

    Args:
        ours: under our names, with or without ``backbone.``.
    """
    shapes = _channels(ours)
    for name in PRESETS:
        with torch.device('meta'):
            net = ConfigurableMobileOne(name, deploy=True)
        if _channels(net.state_dict()) == shapes:
            return name
    return None


def _channels(state: dict) -> dict[str, int]:
    """Output channels of each unit and its SE, in whatever form it is."""
    channels = {}
    for name, value in state.items():
        unit, found, _ = name.removeprefix('backbone.').partition('.branch_')
        if (found and value.dim()) or '.se.' in name:
            channels[unit] = value.shape[0]
    return channels


def filled_model(ours: dict, found: Recognized, name: Optional[str]) -> nn.Module:
    """A model of the right form that takes every weight.

    Raises:
        CheckpointError: no architecture fits, or this one does not.
    """
    if name is None:
        raise CheckpointError(
            f'these weights have the channels of none of {list(PRESETS)}; '
            'say with --arch which config they are for'
        )
    model = _build(name, found, ours)
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        raise CheckpointError(f'not the weights of {name}: {one_line(str(error), 4000)}') from error
    return model.eval()


def _build(name: str, found: Recognized, ours: dict) -> nn.Module:
    backbone: Any = dict(type='ConfigurableMobileOne', deploy=found.folded)
    if name in PRESETS:
        backbone['arch'] = name
    else:
        config = read_config(name) if name.endswith('.py') else ModelHub.get(name).config
        backbone = {**config.model.backbone, **backbone}
    net = ConfigurableMobileOne(**{k: v for k, v in backbone.items() if k != 'type'})
    if found.layout == BACKBONE:
        return net
    classes, width = (
        ours['head.fc.weight'].shape if found.has_head else (1000, net.out_channels[-1])
    )
    return DeployableClassifier(
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=width),
    )


def _write(state: dict, to: str, target: Path, record: dict) -> Path:
    if to != 'apple':
        return save_checkpoint_atomic({'meta': {'converted': record}, 'state_dict': state}, target)
    done = save_checkpoint_atomic(state, target)
    beside = target.with_name(f'{target.name}.provenance.json')
    write_json(beside, record, CheckpointError, indent=1)
    return done
