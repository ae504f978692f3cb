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

from . import gpu
from .by_moments import SumByMoments
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
    f'unit_forward(Tensor x, Tensor[] params, str method, {UnitConfig.SCHEMA})'
    ' -> (Tensor out, Tensor stats, Tensor[] saved)'
)
_LIBRARY.define(
    'unit_backward(Tensor grad, Tensor x, Tensor? active, Tensor[] params, Tensor[] saved,'
    f' bool wants_dx, str method, {UnitConfig.SCHEMA}) -> (Tensor dx, Tensor[] grads)'
)


def layout(method: str, config: UnitConfig, x: Tensor) -> torch.memory_format:
    """In which layout a method wants x."""
    return _kind(method, config, x).layout(x)


def unit_sum(method: str, config: UnitConfig, x: Tensor, params: BranchParams):
    """Activated sum of all branches (N, C_out, H_out, W_out), and statistics of the batch.

    Args:
        method: 'moments', 'recompute' or 'fused'.
        config: of the unit.
        x: (N, C_in, H, W), in the layout that the method wants or another.
        params: of the branches.

    Returns:
        The sum, in x's type (under autocast in autocast's), and (2, J, C_out) float64: means and
        unbiased variances of the branches.
    """
    given = [p for p in params.flat() if p is not None]
    out, stats, _ = torch.ops.mobileone_ext.unit_forward(x, given, method, *config.flat())
    return out, stats


def _kind(name: str, config: UnitConfig, x: Tensor) -> type[Method]:
    if name == 'moments':
        return SumByMoments
    return SumInOnePass if is_one_conv(config, x) else SumByRecomputing


def _method(name: str, config: UnitConfig, x: Tensor) -> Method:
    kind: Any = _kind(name, config, x)
    wants = {SumByMoments: (x,), SumInOnePass: (name == 'fused',)}
    return kind(config, *wants.get(kind, ()))


def _method_of_call(x: Tensor, name: str, call: Sequence) -> Method:
    shape, branches, kernel_sizes, given, eps, relu, group = call
    lists = (tuple(shape), branches, tuple(kernel_sizes), tuple(given), tuple(eps))
    return _kept_method(x.device, x.dtype, has_kernels_for(x), name, *lists, relu, group)


@functools.lru_cache(maxsize=1024)
def _kept_method(device: torch.device, dtype: torch.dtype, _: bool, name: str, *flat) -> Method:
    """A method is a few objects, which take longer to make than a small unit to compute."""
    return _method(name, UnitConfig.of(*flat), torch.empty(0, device=device, dtype=dtype))


def _forward(x: Tensor, params: Sequence[Tensor], name: str, *call):
    method = _method_of_call(x, name, call)
    layout = method.layout(x)
    x = x.contiguous(memory_format=layout)
    with gpu.on_device(x):
        out, stats, saved = method.forward(x, method.config.params(params))
    return out.contiguous(memory_format=layout), stats, saved


def _forward_like(x: Tensor, params: Sequence[Tensor], name: str, *call):
    method = _method(name, UnitConfig.of(*call), x)
    return method.like(x, method.config.params(params))


def _backward(
    grad: Tensor,
    x: Tensor,
    active: Optional[Tensor],
    params: Sequence[Tensor],
    saved: Sequence[Tensor],
    wants_dx: bool,
    name: str,
    *call,
):
    method = _method_of_call(x, name, call)
    config, layout = method.config, method.layout(x)
    x = x.contiguous(memory_format=layout)
    with gpu.on_device(x):
        dx, grads = method.backward(
            OutputGrad(grad, active), x, config.params(params), saved, wants_dx
        )
    found = in_own_memory(g for g, given in zip(grads.flat(), config.given) if given)
    dx = x.new_empty(0) if dx is None else dx.contiguous(memory_format=layout)
    return dx, found


def _backward_like(grad, x, active, params, saved, wants_dx, name, *call):
    if wants_dx:
        dx = torch.empty_like(x, memory_format=layout(name, UnitConfig.of(*call), x))
    else:
        dx = x.new_empty(0)
    return dx, [torch.empty_like(p, memory_format=torch.contiguous_format) for p in params]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, call: tuple, *params: Tensor):
        with torch._C._AutoDispatchBelowAutograd():
            out, stats, saved = torch.ops.mobileone_ext.unit_forward(x, list(params), *call)
        *_, relu, _ = call
        ctx.call, ctx.count = call, len(params)
        ctx.save_for_backward(x, out if relu else None, *params, *saved)
        ctx.mark_non_differentiable(stats, *saved)
        ctx.set_materialize_grads(False)
        return (out, stats, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Optional[Tensor], *_):
        if grad is None:
            return None, None, *[None] * ctx.count
        x, active, *rest = ctx.saved_tensors
        params, saved = rest[: ctx.count], rest[ctx.count :]
        wants_dx = ctx.needs_input_grad[0]
        dx, grads = torch.ops.mobileone_ext.unit_backward(
            grad, x, active, params, saved, wants_dx, *ctx.call
        )
        return dx if wants_dx else None, None, *grads


class _UnitGrad(torch.autograd.Function):
    """The gradient, which has none of its own."""

    @staticmethod
    def forward(ctx: Any, others: tuple, grad: Tensor, x: Tensor, *params: Tensor):
        active, *call = others
        with torch._C._AutoDispatchBelowAutograd():
            dx, grads = torch.ops.mobileone_ext.unit_backward(grad, x, active, list(params), *call)
        return (dx, *grads)

    @staticmethod
    def backward(ctx: Any, *_):
        raise RuntimeError(
            'units that train as one convolution have no second derivative; for a gradient of a '
            'gradient give the backbone online_reparam=False'
        )


def _forward_with_gradient(x: Tensor, params: Sequence[Tensor], *call):
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mobileone_ext.unit_forward(x, params, *call)
    out, stats, *saved = _Unit.apply(x, call, *params)
    return out, stats, saved


def _backward_with_refusal(grad, x, active, params, *call):
    if not torch.is_grad_enabled():
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.mobileone_ext.unit_backward(grad, x, active, params, *call)
    dx, *grads = _UnitGrad.apply((active, *call), grad, x, *params)
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
