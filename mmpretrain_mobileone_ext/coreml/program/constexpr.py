"""Dense values of the compressed weights of an ``mlprogram``.

MIL stores a compressed weight as a chain of ``constexpr_*`` operations on constants (coremltools
``mil.ops.defs``: ``iOS16/constexpr_ops.py``, ``iOS18/compression.py``). They are decoded here in
NumPy rather than by coremltools, which repeats a whole table for every single weight: half a GiB
for a 1024 x 1024 layer of 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar

import numpy as np

from ...errors import ProgramError
from ...utils.text import one_line
from .budget import Ledger
from .constants import from_bits
from .graph import Packed

PREFIX = 'constexpr_'
# Bytes of a number on the way: an index, a bit a byte, two floats.
_WIDEST = 16

# Parameters that hold a weight's numbers.
_NUMBERS = ('quantized_data', 'data', 'nonzero_data', 'source_val')

Arrays = tuple[np.ndarray, ...]
_Decoder = TypeVar('_Decoder', bound=Callable[..., Any])

_DECODERS: dict[str, Callable[..., Any]] = {}


def decode(kind: str, name: str, inputs: Mapping[str, Any], ledger: Ledger) -> Arrays:
    """Return the dense results of one ``constexpr_*`` operation.

    Args:
        kind (str): MIL operation type.
        name (str): Name of the operation in the file, for messages.
        inputs (Mapping[str, Any]): MIL parameter to an array or a scalar.
        ledger (Ledger): Takes the bytes of the results.

    Returns:
        tuple[np.ndarray, ...]: One array a result, in the dtype that the operation declares (fp16,
        fp32; int8 for tables that a further operation scales).

    Raises:
        ProgramError: If the operation is none of the documented ones, its inputs do not fit each
            other, or the results take too much.
    """
    what = f'a weight stored as {kind!r} (named {name!r})'
    if kind not in _DECODERS:
        raise ProgramError(f'{what} cannot be read; known: {", ".join(sorted(_DECODERS))}')
    ledger.check(_WIDEST * _count(inputs), what)
    try:
        result = _DECODERS[kind](**inputs)
    # NumPy raises all of these on arrays that do not fit each other.
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise ProgramError(f'{what} is damaged: {one_line(error)}') from error
    results = result if isinstance(result, tuple) else (result,)
    ledger.hold(sum(r.nbytes for r in results), what)
    return results


def packed(kind: str, inputs: Mapping[str, Any], parts: Mapping[str, Packed]) -> Packed:
    """How the results of one ``constexpr_*`` operation lie in the file, without the bytes.

    Args:
        kind (str): MIL operation type; its inputs are those that :func:`decode` took.
        inputs (Mapping[str, Any]): MIL parameter to an array or a scalar.
        parts (Mapping[str, Packed]): MIL parameter to how that one lies there.
    """
    # Several results of one operation are decoded once.
    earlier = dict.fromkeys(form for part in parts.values() for form in part.forms)
    bits = next((parts[name].bits for name in _NUMBERS if name in parts), 0)
    if 'lut' in inputs:
        # Its entries; a table of vectors has them along the last axis but one.
        lut = inputs['lut']
        bits = int(lut.shape[-2] if lut.ndim > 1 else lut.size).bit_length() - 1
    return Packed((*earlier, kind), bits)


def _count(inputs: Mapping[str, Any]) -> int:
    """Numbers in the dense result, from the shapes of the inputs."""
    if inputs.get('shape') is not None:
        return math.prod(max(0, int(n)) for n in inputs['shape'])
    count = max((np.size(value) for value in inputs.values()), default=0)
    return count * (inputs['lut'].shape[-1] if 'lut' in inputs else 1)


def _decoder(kind: str) -> Callable[[_Decoder], _Decoder]:
    """Register what decodes one ``constexpr_*`` operation."""

    def register(function: _Decoder) -> _Decoder:
        _DECODERS[PREFIX + kind] = function
        return function

    return register


@_decoder('affine_dequantize')
def _affine(
    quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: Any
) -> np.ndarray:
    """``scale * (data - zero_point)``."""
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


@_decoder('blockwise_shift_scale')
def _blockwise(
    data: np.ndarray, scale: np.ndarray, offset: Optional[np.ndarray] = None
) -> np.ndarray:
    """One scale a block."""
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


@_decoder('lut_to_dense')
def _lut_dense(
    indices: np.ndarray,
    lut: np.ndarray,
    shape: Optional[np.ndarray] = None,
    vector_axis: Any = None,
) -> np.ndarray:
    """Of iOS 16 (packed) and iOS 18."""
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


@_decoder('sparse_to_dense')
def _sparse_dense(
    nonzero_data: np.ndarray, mask: np.ndarray, shape: Optional[np.ndarray] = None
) -> np.ndarray:
    """Of iOS 16 (packed) and iOS 18."""
    if shape is not None:
        size = tuple(int(n) for n in shape)
        mask = _unpacked(mask, 1, int(np.prod(size))).reshape(size)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask.astype(bool)] = nonzero_data
    return dense


@_decoder('lut_to_sparse')
def _lut_sparse(
    indices_mask: np.ndarray,
    indices_nonzero_data: np.ndarray,
    lut: np.ndarray,
    vector_axis: Any = None,
) -> Arrays:
    """Mask and values of what is not zero."""
    indices = _sparse_dense(indices_nonzero_data, indices_mask)
    dense, mask = _look_up(indices, lut, vector_axis), indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], int(vector_axis))
    return mask, dense[mask.astype(bool)]


@_decoder('sparse_blockwise_shift_scale')
def _blockwise_sparse(
    data_mask: np.ndarray,
    nonzero_data: np.ndarray,
    scale: np.ndarray,
    offset: Optional[np.ndarray] = None,
) -> Arrays:
    """Mask and values."""
    dense = _blockwise(_sparse_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask.astype(bool)]


@_decoder('cast')
def _cast(source_val: np.ndarray, output_dtype: Any) -> np.ndarray:
    """Fp16 to fp32, the only documented target."""
    return np.asarray(source_val).astype(np.float32)


def _unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    if packed.size != -(-count * bits // 8):
        raise ValueError(f'{count} numbers of {bits} bits in {packed.size} bytes')
    return from_bits(packed, bits, count)
