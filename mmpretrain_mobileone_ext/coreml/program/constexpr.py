"""Dense values of the compressed weights of an ``mlprogram``.

MIL stores a compressed weight as a chain of ``constexpr_*`` operations on
constants (coremltools ``mil.ops.defs``: ``iOS16/constexpr_ops.py``,
``iOS18/compression.py``). They are decoded here in NumPy rather than by
coremltools, which repeats a whole table for every single weight: half a GiB
for a 1024 x 1024 layer of 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Callable, Optional

import numpy as np

from ...errors import ProgramError
from .budget import Ledger
from .package_files import one_line

PREFIX = 'constexpr_'
# Bytes of a number on the way: an index, a bit a byte, two floats.
_WIDEST = 16

Arrays = tuple[np.ndarray, ...]


def decode(op: Any, ledger: Optional[Ledger] = None) -> Arrays:
    """Return the dense results of one ``constexpr_*`` operation.

    Args:
        op (Operation): Has ``op_type``, ``name`` and ``inputs``, as
            coremltools' in-memory operation; its inputs are constants or
            results of other ``constexpr_*`` operations.
        ledger (Ledger | None): Takes the bytes of the results.

    Returns:
        tuple[np.ndarray, ...]: One array a result, in the dtype that the
        operation declares (fp16, fp32; int8 for tables that a further
        operation scales).

    Raises:
        ProgramError: If the operation is none of the documented ones, its
            inputs do not fit each other, or the results take too much.
    """
    ledger = Ledger() if ledger is None else ledger
    if op.op_type not in _DECODERS:
        raise ProgramError(
            f'weights stored as {op.op_type!r} (named {op.name!r}) cannot be '
            f'read; known: {", ".join(sorted(_DECODERS))}'
        )
    inputs = {name: _value(var) for name, var in op.inputs.items() if var is not None}
    what = f'a weight stored as {op.op_type!r} (named {op.name!r})'
    ledger.check(_WIDEST * _count(inputs), what)
    try:
        result = _DECODERS[op.op_type](**inputs)
    # NumPy raises all of these on arrays that do not fit each other.
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise ProgramError(f'{what} is damaged: {one_line(error)}') from error
    results = result if isinstance(result, tuple) else (result,)
    ledger.hold(sum(r.nbytes for r in results), what)
    return results


def _count(inputs: Mapping[str, Any]) -> int:
    """Numbers in the dense result, from the shapes of the inputs."""
    if inputs.get('shape') is not None:
        return math.prod(max(0, int(n)) for n in inputs['shape'])
    count = max((np.size(value) for value in inputs.values()), default=0)
    return count * (inputs['lut'].shape[-1] if 'lut' in inputs else 1)


def _value(var: Any) -> Any:
    if var.op is not None and var.op.op_type.startswith(PREFIX):
        return decode(var.op)[var.op_output_idx]
    return var.val


def _affine(
    quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: Any
) -> np.ndarray:
    """``constexpr_affine_dequantize``: scale * (data - zero_point)."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    channels = (1, quantized_data.shape[int(axis)])
    if np.size(scale) not in channels or np.size(zero_point) not in channels:
        raise ValueError(
            f'{np.size(scale)} scales and {np.size(zero_point)} zero points '
            f'for {channels[1]} channels'
        )
    shift = np.reshape(zero_point, shape).astype(np.float32)
    factor = np.reshape(scale, shape).astype(np.float32)
    dense = (quantized_data.astype(np.float32) - shift) * factor
    return dense.astype(np.asarray(scale).dtype)


def _blockwise(
    data: np.ndarray, scale: np.ndarray, offset: Optional[np.ndarray] = None
) -> np.ndarray:
    """``constexpr_blockwise_shift_scale``: one scale a block."""
    dense = data.astype(np.float32)
    if offset is not None:
        dense = dense - _spread(offset, data.shape).astype(np.float32)
    dense = dense * _spread(scale, data.shape).astype(np.float32)
    return dense.astype(scale.dtype)


def _spread(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat every entry over its block; axes of length 1 broadcast."""
    for axis, (found, wanted) in enumerate(zip(blocks.shape, shape)):
        if found not in (1, wanted):
            blocks = np.repeat(blocks, wanted // found, axis)
    if np.broadcast_shapes(blocks.shape, shape) != shape:
        raise ValueError(f'blocks of shape {blocks.shape} for {shape}')
    return blocks


def _lut_dense(
    indices: np.ndarray,
    lut: np.ndarray,
    shape: Optional[np.ndarray] = None,
    vector_axis: Any = None,
) -> np.ndarray:
    """``constexpr_lut_to_dense`` of iOS 16 (packed) and iOS 18."""
    if shape is None:
        return _look_up(indices, lut, vector_axis)
    size = tuple(int(n) for n in shape)
    bits = int(lut.size).bit_length() - 1
    return lut[_unpacked(indices, bits, int(np.prod(size)))].reshape(size)


def _look_up(indices: np.ndarray, lut: np.ndarray, vector_axis: Any) -> np.ndarray:
    """Entries of tables (*groups, entries, vector), one table a group."""
    groups, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    table = np.zeros((1,) * indices.ndim, np.intp)
    for axis, (count, length) in enumerate(zip(groups, indices.shape)):
        step = [1] * indices.ndim
        step[axis] = length
        own = np.arange(length) // (length // count)
        table = table * count + own.reshape(step)
    tables = lut.reshape(-1, entries, vector)
    dense = tables[table, indices.astype(np.uint8)]
    if vector == 1:
        return dense[..., 0]
    axis = int(vector_axis) % indices.ndim
    size = list(indices.shape)
    size[axis] *= vector
    return np.moveaxis(dense, -1, axis + 1).reshape(size)


def _sparse_dense(
    nonzero_data: np.ndarray, mask: np.ndarray, shape: Optional[np.ndarray] = None
) -> np.ndarray:
    """``constexpr_sparse_to_dense`` of iOS 16 (packed) and iOS 18."""
    if shape is not None:
        size = tuple(int(n) for n in shape)
        mask = _unpacked(mask, 1, int(np.prod(size))).reshape(size)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask.astype(bool)] = nonzero_data
    return dense


def _lut_sparse(
    indices_mask: np.ndarray,
    indices_nonzero_data: np.ndarray,
    lut: np.ndarray,
    vector_axis: Any = None,
) -> Arrays:
    """``constexpr_lut_to_sparse``: mask and values of what is not zero."""
    indices = _sparse_dense(indices_nonzero_data, indices_mask)
    dense, mask = _look_up(indices, lut, vector_axis), indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], int(vector_axis))
    return mask, dense[mask.astype(bool)]


def _blockwise_sparse(
    data_mask: np.ndarray,
    nonzero_data: np.ndarray,
    scale: np.ndarray,
    offset: Optional[np.ndarray] = None,
) -> Arrays:
    """``constexpr_sparse_blockwise_shift_scale``: mask and values."""
    dense = _blockwise(_sparse_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask.astype(bool)]


def _cast(source_val: np.ndarray, output_dtype: Any) -> np.ndarray:
    """``constexpr_cast``: fp16 to fp32, the only documented target."""
    return np.asarray(source_val).astype(np.float32)


def _unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Numbers of 1 to 8 bits, least significant bit first (iOS 16)."""
    if packed.size != -(-count * bits // 8):
        raise ValueError(f'{count} numbers of {bits} bits in {packed.size} bytes')
    stream = np.unpackbits(packed, count=count * bits, bitorder='little')
    places = (1 << np.arange(bits)).astype(np.uint8)
    return stream.reshape(count, bits) @ places


_DECODERS: dict[str, Callable[..., Any]] = {
    'constexpr_affine_dequantize': _affine,
    'constexpr_blockwise_shift_scale': _blockwise,
    'constexpr_cast': _cast,
    'constexpr_lut_to_dense': _lut_dense,
    'constexpr_lut_to_sparse': _lut_sparse,
    'constexpr_sparse_blockwise_shift_scale': _blockwise_sparse,
    'constexpr_sparse_to_dense': _sparse_dense,
}
