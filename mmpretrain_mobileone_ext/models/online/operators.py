"""A unit's methods as operators of torch: ``torch.ops.mobileone_ext``.

``unit_forward`` sums all branches of a unit and activates the sum; ``unit_backward`` is its
gradient. They have all that torch asks of an operator (shapes without data, gradients, a rule for
autocast), so that torch.compile, torch.export, AMP and activation checkpointing see one operator
where a Python function would break their graphs. They change none of their inputs: the batch's
statistics are an output, and running statistics follow by torch's own in-place operators (see
:func:`~..norms.track`), which say themselves what they change.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

from ..quantization import InputGrid
from . import gpu
from .by_moments import PATCH_MEAN, SumByMoments
from .by_recompute import SumByRecomputing, SumInOnePass, is_one_conv
from .convs import OutputGrad
from .kernels import has_kernels_for
from .unit import BranchParams, UnitConfig, autocast_dtype, in_own_memory

Method = Union[SumByMoments, SumByRecomputing, SumInOnePass]
#: Whether torch can be told an operator's shapes without data, which torch.compile asks for; older
#: than 2.4 it cannot.
HAS_SHAPES = hasattr(torch.library, 'register_fake')
_LIBRARY = torch.library.Library('mobileone_ext', 'DEF')
_LIBRARY.define(
    f'unit_forward(Tensor x, Tensor? scale, Tensor[] params, str method, {UnitConfig.SCHEMA})'
    ' -> (Tensor out, Tensor stats, Tensor[] saved)'
)
_LIBRARY.define(
    'unit_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? active, Tensor[] params,'
    f' Tensor[] saved, bool wants_dx, str method, {UnitConfig.SCHEMA})'
    ' -> (Tensor dx, Tensor[] grads)'
)


def layout(method: str, config: UnitConfig, x: Tensor) -> torch.memory_format:
    """In which layout a method wants x."""
    return _kind(method, config, x).layout(x)


def unit_sum(
    method: str, config: UnitConfig, x: Tensor, params: BranchParams, scale: Optional[Tensor] = None
):
    """Activated sum of all branches (N, C_out, H_out, W_out), and statistics of the batch.

    Args:
        method: 'moments', 'recompute' or 'fused'.
        config: of the unit.
        x: (N, C_in, H, W), in the layout that the method wants or another.
        params: of the branches.
        scale: of the grid that x is rounded to, by the config's levels.

    Returns:
        The sum, in x's type (under autocast in autocast's), and (2, J, C_out) float64: means and
        unbiased variances of the branches; and where the kernel is rounded, the mean (G, P) of the
        patches, float64, else None.
    """
    given = [p for p in params.flat() if p is not None]
    call = method, *config.flat()
    out, stats, saved = torch.ops.mobileone_ext.unit_forward(x, scale, given, *call)
    return out, stats, saved[PATCH_MEAN] if config.weight_grid else None


def _kind(name: str, config: UnitConfig, x: Tensor) -> type[Method]:
    if name == 'moments':
        return SumByMoments
    return SumInOnePass if is_one_conv(config, x) else SumByRecomputing


def _method(name: str, config: UnitConfig, x: Tensor) -> Method:
    kind: Any = _kind(name, config, x)
    wants = {SumByMoments: (x,), SumInOnePass: (name == 'fused',)}
    return kind(config, *wants.get(kind, ()))


def _method_of_call(x: Tensor, name: str, call: Sequence) -> Method:
    shape, branches, kernel_sizes, given, eps, relu, group, grid, levels = call
    lists = (tuple(shape), branches, tuple(kernel_sizes), tuple(given), tuple(eps))
    rest = relu, group, tuple(grid), tuple(levels)
    return _kept_method(x.device, x.dtype, has_kernels_for(x), name, *lists, *rest)


@functools.lru_cache(maxsize=1024)
def _kept_method(device: torch.device, dtype: torch.dtype, _: bool, name: str, *flat) -> Method:
    """A method is a few objects, which take longer to make than a small unit to compute."""
    return _method(name, UnitConfig.of(*flat), torch.empty(0, device=device, dtype=dtype))


def _grid(scale: Optional[Tensor], config: UnitConfig) -> Optional[InputGrid]:
    return None if scale is None else InputGrid(scale, *config.input_levels)


def _forward(x: Tensor, scale: Optional[Tensor], params: Sequence[Tensor], name: str, *call):
    method = _method_of_call(x, name, call)
    layout, grid = method.layout(x), _grid(scale, method.config)
    x = x.contiguous(memory_format=layout)
    x = x if grid is None else grid.nearest(x)
    with gpu.on_device(x):
        out, stats, saved = method.forward(x, method.config.params(params))
    return out.contiguous(memory_format=layout), stats, saved


def _forward_like(x: Tensor, scale: Optional[Tensor], params: Sequence[Tensor], name: str, *call):
    method = _method(name, UnitConfig.of(*call), x)
    return method.like(x, method.config.params(params))


def _backward(
    grad: Tensor,
    x: Tensor,
    scale: Optional[Tensor],
    active: Optional[Tensor],
    params: Sequence[Tensor],
    saved: Sequence[Tensor],
    wants_dx: bool,
    name: str,
    *call,
):
    method = _method_of_call(x, name, call)
    config, layout = method.config, method.layout(x)
    x, grid = x.contiguous(memory_format=layout), _grid(scale, config)
    # x is kept as the layer before keeps it, and rounded once more.
    rounded = x if grid is None else grid.nearest(x)
    with gpu.on_device(x):
        dx, grads = method.backward(
            OutputGrad(grad, active), rounded, config.params(params), saved, wants_dx
        )
    if dx is not None and grid is not None:
        # Nobody else has dx: the largest map of a network need not be there three times.
        del rounded
        grid.grad_within(dx, x, out=dx)
    found = in_own_memory(g for g, given in zip(grads.flat(), config.given) if given)
    dx = x.new_empty(0) if dx is None else dx.contiguous(memory_format=layout)
    return dx, found


def _backward_like(grad, x, scale, active, params, saved, wants_dx, name, *call):
    if wants_dx:
        dx = torch.empty_like(x, memory_format=layout(name, UnitConfig.of(*call), x))
    else:
        dx = x.new_empty(0)
    return dx, [torch.empty_like(p, memory_format=torch.contiguous_format) for p in params]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Optional[Tensor], call: tuple, *params: Tensor):
        with torch._C._AutoDispatchBelowAutograd():
            out, stats, saved = torch.ops.mobileone_ext.unit_forward(x, scale, list(params), *call)
        *_, relu, _, _, _ = call
        ctx.call, ctx.count = call, len(params)
        ctx.save_for_backward(x, scale, out if relu else None, *params, *saved)
        ctx.mark_non_differentiable(stats, *saved)
        ctx.set_materialize_grads(False)
        return (out, stats, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Optional[Tensor], *_):
        if grad is None:
            return None, None, None, *[None] * ctx.count
        x, scale, active, *rest = ctx.saved_tensors
        params, saved = rest[: ctx.count], rest[ctx.count :]
        wants_dx = ctx.needs_input_grad[0]
        dx, grads = torch.ops.mobileone_ext.unit_backward(
            grad, x, scale, active, params, saved, wants_dx, *ctx.call
        )
        return dx if wants_dx else None, None, None, *grads


class _UnitGrad(torch.autograd.Function):
    """The gradient, which has none of its own."""

    @staticmethod
    def forward(ctx: Any, others: tuple, grad: Tensor, x: Tensor, *params: Tensor):
        scale, active, *call = others
        with torch._C._AutoDispatchBelowAutograd():
            dx, grads = torch.ops.mobileone_ext.unit_backward(
                grad, x, scale, active, list(params), *call
            )
        return (dx, *grads)

    @staticmethod
    def backward(ctx: Any, *_):
        raise RuntimeError(
            'units that train as one convolution have no second derivative; for a gradient of a '
            'gradient give the backbone online_reparam=False'
        )


def _forward_with_gradient(x: Tensor, scale: Optional[Tensor], params: Sequence[Tensor], *call):
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mobileone_ext.unit_forward(x, scale, params, *call)
    out, stats, *saved = _Unit.apply(x, scale, call, *params)
    return out, stats, saved


def _backward_with_refusal(grad, x, scale, active, params, *call):
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mobileone_ext.unit_backward(grad, x, scale, active, params, *call)
    dx, *grads = _UnitGrad.apply((scale, active, *call), grad, x, *params)
    return dx, grads


def _forward_under_autocast(x: Tensor, *call):
    """x in autocast's type; statistics and folding stay in float32 or better."""
    dtype = autocast_dtype(x) or x.dtype
    with torch.autocast(x.device.type, enabled=False):
        return torch.ops.mobileone_ext.unit_forward(x.to(dtype), *call)


def _backward_under_autocast(grad: Tensor, *call):
    with torch.autocast(grad.device.type, enabled=False):
        return torch.ops.mobileone_ext.unit_backward(grad, *call)


def _register(name: str, run: Any, fake: Any, autograd: Any, autocast: Any) -> None:
    _LIBRARY.impl(name, run, 'CompositeExplicitAutograd')
    _LIBRARY.impl(name, autograd, 'Autograd')
    for device in ('CPU', 'CUDA'):
        _LIBRARY.impl(name, autocast, f'Autocast{device}')
    if HAS_SHAPES:
        torch.library.register_fake(f'mobileone_ext::{name}', fake, lib=_LIBRARY)


_register('unit_forward', _forward, _forward_like, _forward_with_gradient, _forward_under_autocast)
_register(
    'unit_backward', _backward, _backward_like, _backward_with_refusal, _backward_under_autocast
)
