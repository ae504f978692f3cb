"""Triton kernels without a GPU: images for the interpreter, and a compiler's view of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from helpers import generator
from torch import Tensor

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def unit(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to ``dtype``."""
    return torch.finfo(dtype).eps / 2


def stored(dtype: torch.dtype) -> float:
    """Largest relative error of storing a result; the interpreter truncates to bfloat16."""
    truncates = dtype == torch.bfloat16 and DEVICE == 'cpu'
    return 1.01 * unit(dtype) * (2 if truncates else 1)


def work(dtype: torch.dtype) -> torch.dtype:
    """In which kernels compute."""
    return torch.promote_types(dtype, torch.float32)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that ``dtype`` holds."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype).to(DEVICE)


def assert_within(found: Tensor, wanted: Tensor, bound: Tensor) -> None:
    """Elementwise, with a bound for each element."""
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    off = (found.double() - wanted).abs() / bound.clamp(min=torch.finfo(torch.float64).tiny)
    assert float(off.max()) <= 1, f'{float(off.max())} times the bound'


def compiled(kernel: Any, types: dict[str, str], num_warps: int = 4, **constants: Any) -> Any:
    """Compile a kernel for an H100; no GPU is needed.

    Args:
        kernel: as decorated.
        types: of arguments by name, such as ``'*fp32'``, or a tuple of them, in which None is None;
            others in capitals are sizes.
        constants: values of its ``tl.constexpr``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = kernel.fn if hasattr(kernel, 'configs') else kernel
    signature, values = {}, {}
    for place, name in enumerate(inspect.signature(function.fn).parameters):
        if name in constants:
            signature[name], values[(place,)] = 'constexpr', constants[name]
        else:
            signature[name] = types.get(name, 'i32')
            if isinstance(signature[name], tuple):
                absent = [i for i, kind in enumerate(signature[name]) if kind is None]
                values.update({(place, i): None for i in absent})
                signature[name] = tuple(kind or 'constexpr' for kind in signature[name])
            assert name in types or name.isupper(), f'{name} of {function.fn.__name__} has no type'
    return triton.compile(
        ASTSource(function, signature, values),
        target=GPUTarget('cuda', 90, 32),
        options={'num_warps': num_warps},
    )
