"""The form of a model, and its change: fold all blocks, verified or not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional, TypeVar, Union

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..utils.checks import boolean
from ..utils.parity import Parity, Tolerance, compare, fold_tolerance
from .block import MobileOneBlock
from .loading.program import require_network
from .quantization import plain_inputs

Model = TypeVar('Model', bound=nn.Module)


def switch_to_deploy(model: Model, inplace: bool = True) -> Model:
    """Fold all blocks of ``model``, a backbone or anything that holds one.

    Each block's running statistics are used, whatever mode it is in. Blocks of other families that
    bring a ``switch_to_deploy`` of their own (RepVGG, mmpretrain's MobileOne) are folded by it.
    Folded parameters require grad unless all of the branches' are frozen; no random number is
    drawn; a second call changes nothing.

    Args:
        model: any module tree; DDP-wrapped ones too.
        inplace: fold ``model`` itself, else a deep copy.

    Returns:
        The folded model.

    Raises:
        FoldError: a block has no exact fold; ``model`` is then unchanged.
        CheckpointError: a Core ML file is loaded in place of the network.
    """
    boolean('inplace', inplace)
    require_network(model, 'switch_to_deploy()')
    if not inplace:
        model = copy.deepcopy(model)
    folds = [(b, b.fold()) for b in _blocks(model) if not b.deploy]
    _fold_foreign(model)
    for block, (kernel, bias) in folds:
        block.install_fold(kernel, bias)
    return model


def _blocks(model: nn.Module) -> list[MobileOneBlock]:
    return [m for m in model.modules() if isinstance(m, MobileOneBlock)]


def _fold_foreign(model: nn.Module) -> None:
    """Fold blocks that mmpretrain (or others) know how to fold."""
    leaves: list[Any] = [
        m
        for m in model.modules()
        if _foldable_by_itself(m)
        and not any(_foldable_by_itself(c) for c in m.modules() if c is not m)
    ]
    if not leaves:
        return
    with torch.random.fork_rng():
        for leaf in leaves:
            leaf.switch_to_deploy()
            leaf.requires_grad_(True)


def _foldable_by_itself(module: nn.Module) -> bool:
    method = getattr(module, 'switch_to_deploy', None)
    # This package's own methods only come back to this module.
    package = __name__.split('.')[0]
    return (
        callable(method)
        and method.__module__.split('.')[0] != package
        and not getattr(module, 'deploy', False)
        and not any(isinstance(m, MobileOneBlock) for m in module.modules())
    )


def verified_switch_to_deploy(
    model: Model,
    inputs: Optional[Tensor] = None,
    *,
    inplace: bool = True,
    tolerance: Union[float, Tolerance, None] = None,
) -> tuple[Model, Parity]:
    """Fold ``model`` and prove on ``inputs`` that its output is unchanged.

    Both forms run in eval mode. Nothing is changed in ``model`` when the comparison fails.

    Args:
        inputs: (N, C, H, W) in the model's dtype; seeded normal noise (2, C, 64, 64) when None.
        tolerance: relative error allowed, a named one by dtype when None.

    Returns:
        The folded model and the figures reached.

    Raises:
        ParityError: the outputs differ by more than ``tolerance``.
        FoldError: a block has no exact fold.
    """
    if inputs is None:
        inputs = random_inputs(model)
    folded = switch_to_deploy(model, inplace=False)
    parity = compare_forms(model, folded, inputs)
    parity.require(fold_tolerance(inputs.dtype, tolerance), 'folded form against branches')
    if inplace:
        folded = switch_to_deploy(model)
    return folded, parity


def compare_forms(branches: nn.Module, folded: nn.Module, inputs: Any) -> Parity:
    """Compare two forms' outputs in eval mode; modes are put back.

    Branches run as branches, whatever ``online_reparam`` says; weights are rounded in both forms
    where they train so, inputs in neither.
    """
    with plain_inputs(branches, folded):
        with branches_only(branches):
            reference = _eval_output(branches, inputs)
        return compare(reference, _eval_output(folded, inputs))


@contextmanager
def branches_only(model: nn.Module) -> Iterator[None]:
    """Let all blocks of ``model`` run their branches."""
    kept = [(b, b.online_reparam) for b in _blocks(model)]
    for block, _ in kept:
        block.online_reparam = False
    try:
        yield
    finally:
        for block, preference in kept:
            block.online_reparam = preference


@torch.no_grad()
def _eval_output(model: nn.Module, inputs: Any) -> Any:
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        return model(inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode


def random_inputs(model: nn.Module, size: int = 64) -> Tensor:
    """Seeded noise (2, C, size, size) that suits the model's first block."""
    blocks = _blocks(model)
    like = next(model.parameters())
    channels = blocks[0].spec.in_channels if blocks else 3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, channels, size, size, generator=generator)
    return noise.to(like.device, like.dtype)


def form_of(model: Any) -> str:
    """'branches', 'folded', 'plain' (nothing to fold) or 'Core ML'.

    A model is 'branches' as long as any block, ours or of another family with a
    ``switch_to_deploy``, is not folded. Of a wrapper or a TTA model the one inside counts.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if getattr(model, 'artifact', None) is not None:
        return 'Core ML'
    if any(_has_branches(m) for m in model.modules()):
        return 'branches'
    folded = any(getattr(m, 'deploy', False) is True for m in model.modules())
    return 'folded' if folded else 'plain'


def _has_branches(module: nn.Module) -> bool:
    if isinstance(module, MobileOneBlock):
        return not module.deploy
    # A backbone whose blocks are folded does not know that they are.
    inner = any(
        callable(getattr(m, 'switch_to_deploy', None)) for m in module.modules() if m is not module
    )
    return _foldable_by_itself(module) and not inner
