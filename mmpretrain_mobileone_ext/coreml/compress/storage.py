"""The ways to store a weight, each of them one class.

A class says everything about itself: what the values become, how many bytes they take, which of
coremltools' passes make it, which system reads it, and what it may cost. Nobody else asks which way
it is. To add one, write its class here and give it a row in :data:`.scheme.KINDS`.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Optional

import numpy as np

from ...utils.accuracy import INT4_BLOCK
from ..program import quiet
from .codes import Encoded, Indices, Integers, Masked, integers
from .kmeans import Found, palettize

#: Finds a table of 2**bits entries for numbers, as :class:`.kmeans.Palettes`.
Cluster = Callable[..., Found]
#: One of ``PASSES`` to coremltools' configuration of it.
Passes = dict[str, Any]

#: coremltools' passes that make them, in the order in which they combine.
PASSES = ('prune_weights', 'palettize_weights', 'linear_quantize_weights')
#: MILBlob aligns every array to 64 bytes and puts a record of 64 before it.
_RECORD = 64
_SMALLEST_GROUP = 8  # output channels that share a table
_TABLE_SHARE = 16
#: The first system that reads several tables for one weight.
_GROUPED = 'iOS18'


class Scheme(ABC):
    """What a user can ask for by name.

    Attributes:
        name: as a user writes it.
        spelling: names of its kind in messages, '' where there is only one.
        max_drop: percentage points of top-1 that it may cost and still be worth shipping. Few bits
            and much sparsity usually need training, and are then refused.
        oldest: the oldest deployment target that reads it.
        reads: what that target is the first to read.
        no_network: why a ``.mlmodel`` cannot hold it, '' if it can.
    """

    name: str
    max_drop: float
    oldest = 'iOS16'
    reads = 'compressed weights of an mlprogram'
    no_network = ''
    spelling = ''

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scheme) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f'<{self.name}>'

    @classmethod
    @abstractmethod
    def named(cls, name: str) -> Optional[Scheme]:
        """The one of this name; None if no scheme of this kind has it."""


class Storage(Scheme):
    """One way to store a weight.

    Attributes:
        words: operations that hold such weights in a file, to what people call them: Core ML's
            ``constexpr`` ones and those of Core AI.
        overhead: bytes of the operation in the specification beyond a constant's, on average as
            measured; MobileOne's names are about 50 letters.
    """

    words: ClassVar[Mapping[str, str]] = {}
    overhead = 0

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        """Those that a search for the smallest file considers."""
        return ()

    @classmethod
    def named(cls, name: str) -> Optional[Storage]:
        return next((found for found in cls.searched() if found.name == name), None)

    @abstractmethod
    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        """What a weight's values become.

        Args:
            values: fp16 or fp32, output channels first.
            target: deployment target, which decides how many tables there are.
            palettes: clusters, and remembers.

        Returns:
            float64, of the same shape.
        """

    @abstractmethod
    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Encoded:
        """What a weight is stored as in a file that is no Core ML package.

        The arguments are those of :meth:`approximate`.
        """

    @abstractmethod
    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        """What makes it of a weight in a package."""

    def quantizer(self) -> dict[str, Any]:
        """Options of coremltools' quantizer that make it in a ``.mlmodel``."""
        raise NotImplementedError(self.no_network)

    def for_weight(self, small: bool, last: bool) -> Storage:
        """What a scheme that stores large weights so stores a weight as.

        Args:
            small: it holds few bytes, and nothing averages its errors out.
            last: it is the classifier's, whose errors reach the scores.
        """
        return DENSE if small else self

    def size(self, values: np.ndarray, target: str) -> int:
        """Bytes of a weight in a package, tables and bookkeeping included.

        Counted as MILBlob stores arrays, plus what the operation adds to the specification. That
        makes small weights not worth some ways.
        """
        arrays = self.arrays(values.size, values, target)
        return self.overhead + sum(_RECORD + _up(n, _RECORD) * _RECORD for n in arrays)

    @abstractmethod
    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        """Bytes of each array that is stored, where ``count`` of the values are stored."""


class Dense(Storage):
    """fp16 or fp32 values, as they are."""

    name = 'dense'
    max_drop = 0.0

    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        return values.astype(np.float64)

    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Encoded:
        return values

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        return {}

    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        return [count * values.itemsize]


DENSE = Dense()


class Code(Storage):
    """Numbers of few bits in place of values."""

    #: ``overhead`` of a weight that is pruned, too.
    joint_overhead: int

    def encode_kept(self, values: np.ndarray, target: str, palettes: Cluster) -> Encoded:
        """As :meth:`encode`, of a weight whose zeros are not stored."""
        return self.encode(values, target, palettes)

    def for_weight(self, small: bool, last: bool) -> Code:
        return INT8 if small else self


class Int8(Code):
    """Scaled integers, with a scale and a zero point for each output channel."""

    name = 'int8'
    max_drop = 0.2
    words = {
        'constexpr_affine_dequantize': 'int8',
        'constexpr_blockwise_shift_scale': 'int8',
        'blockwise_shift_scale': 'int8',
    }
    overhead = 200
    joint_overhead = 700

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        return (cls(),)

    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        return int8(values)

    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Integers:
        return integers(values, 8, values.shape[1], symmetric=False)

    def encode_kept(self, values: np.ndarray, target: str, palettes: Cluster) -> Integers:
        # What is not stored is code 0, and has to be 0.
        return integers(values, 8, values.shape[1], symmetric=True)

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        config = _config('OpLinearQuantizerConfig', mode='linear', dtype='int8')
        return {'linear_quantize_weights': config}

    def quantizer(self) -> dict[str, Any]:
        return dict(nbits=8, quantization_mode='linear')

    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        return [count, len(values) * values.itemsize, len(values)]


INT8 = Int8()


class Int4(Code):
    """Scaled integers of 4 bits, with a scale for every 32 input channels of an output channel."""

    name = 'int4'
    max_drop = 1.0
    oldest = 'iOS18'
    reads = 'integers of 4 bits'
    no_network = 'a .mlmodel has no integers of 4 bits'
    overhead = 200

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        return (cls(),)

    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        return self.encode(values, target, palettes).values()

    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Integers:
        return integers(values, 4, self._block(values), symmetric=True)

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        block = self._block(values)
        blocks = dict(granularity='per_block', block_size=block)
        options = blocks if block < values.shape[1] else dict(granularity='per_channel')
        config = _config(
            'OpLinearQuantizerConfig', mode='linear_symmetric', dtype='int4', **options
        )
        return {'linear_quantize_weights': config}

    def for_weight(self, small: bool, last: bool) -> Code:
        return INT8 if small or last else self

    @staticmethod
    def _block(values: np.ndarray) -> int:
        """Input channels that share a scale: 32, or all where 32 do not divide them."""
        channels = values.shape[1]
        return channels if channels % INT4_BLOCK else INT4_BLOCK

    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        scales = len(values) * values.shape[1] // self._block(values)
        return [_up(count, 2), scales * values.itemsize]


class Palette(Code):
    """A table of values, and an index of few bits for each weight.

    Attributes:
        bits: of an index, one of ``POINTS``.
    """

    #: Bits of an index to ``max_drop``.
    POINTS: ClassVar[Mapping[int, float]] = {8: 0.2, 6: 0.5, 4: 1.0, 3: 2.0, 2: 3.0, 1: 5.0}
    spelling = f'palettize<bits> ({", ".join(map(str, POINTS))})'
    words = {'constexpr_lut_to_dense': 'palettized', 'lut_to_dense': 'palettized'}
    overhead = 130
    joint_overhead = 660

    def __init__(self, bits: int):
        self.bits = bits
        self.name = f'palettize{bits}'
        self.max_drop = self.POINTS[bits]
        if bits == 3:
            self.oldest, self.reads = 'iOS18', 'tables of 3 bits'

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        return tuple(map(cls, cls.POINTS))

    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        return self.encode(values, target, palettes).values()

    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Indices:
        size = self.group_size(values.shape, target)
        groups = [values[start : start + size] for start in range(0, len(values), size)]
        tables, indices = zip(*(palettes(group, self.bits) for group in groups))
        return Indices(np.concatenate(indices), np.stack(tables), self.bits)

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        def table_of(group: np.ndarray) -> Found:
            table, indices = palettes(group, self.bits)
            return table, indices.reshape(-1)

        size = self.group_size(values.shape, target)
        groups = dict(granularity='per_grouped_channel', group_size=size)
        options = dict(
            mode='custom', lut_function=table_of, **(groups if target >= _GROUPED else {})
        )
        return {'palettize_weights': _config('OpPalettizerConfig', **options)}

    def quantizer(self) -> dict[str, Any]:
        def table_of(bits: int, values: np.ndarray) -> Found:
            return palettize(np.asarray(values, np.float32), bits)

        return dict(nbits=self.bits, quantization_mode='custom_lut', lut_function=table_of)

    def for_weight(self, small: bool, last: bool) -> Code:
        return Palette(max(self.bits, 6)) if last and not small else super().for_weight(small, last)

    def group_size(self, shape: tuple[int, ...], target: str) -> int:
        """Output channels that share one table, a divisor of ``shape[0]``.

        Before iOS 18 a weight has one table. Since then it may have one for every group of
        channels, which follows channels of different range: small groups, but of at least 8
        channels, and only while all tables together stay under 1/16 of the indices.
        """
        channels = shape[0]
        if target < _GROUPED:
            return channels
        indices = int(np.prod(shape)) * self.bits / 8
        most = max(1, int(indices / _TABLE_SHARE / (2 * 2**self.bits)))
        return min(
            size
            for size in range(1, channels + 1)
            if channels % size == 0
            and (size == channels or (size >= _SMALLEST_GROUP and channels // size <= most))
        )

    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        entries = len(values) // self.group_size(values.shape, target) * 2**self.bits
        # Arrays of fewer than 10 numbers stand in the specification.
        table = [entries * values.itemsize] if entries >= 10 else []
        return [_up(count * self.bits, 8), *table]


class Sparse(Storage):
    """The smallest weights become zero and are not stored.

    Attributes:
        percent: share of them, 1 to 99.
    """

    spelling = 'prune<percent> (1 to 99)'
    words = {'constexpr_sparse_to_dense': 'pruned', 'sparse_with_bitmask_to_dense': 'pruned'}
    no_network = 'a .mlmodel has no sparse weights'
    overhead = 130

    def __init__(self, percent: int):
        self.percent = percent
        self.name = f'prune{percent}'
        self.max_drop = 1.0 if percent <= 50 else 2.0

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        return cls(25), cls(50), cls(75)

    @classmethod
    def named(cls, name: str) -> Optional[Sparse]:
        found = re.fullmatch('prune([1-9][0-9]?)', name)
        return cls(int(found[1])) if found else None

    def threshold(self, values: np.ndarray) -> float:
        """The magnitude up to which values become zero.

        coremltools finds it by ``numpy.percentile`` in the dtype of the weight; in fp16 that
        overflows for more than 65504 weights and then prunes nothing at all (coremltools 9.0, NumPy
        2).
        """
        magnitudes = np.abs(values.reshape(-1).astype(np.float64))
        count = max(1, len(magnitudes) * self.percent // 100)
        return float(np.partition(magnitudes, count - 1)[count - 1])

    def approximate(
        self, values: np.ndarray, target: str, palettes: Cluster, kept_as: Storage = DENSE
    ) -> np.ndarray:
        kept = np.abs(values.astype(np.float64)) > self.threshold(values)
        left = np.where(kept, values, 0).astype(values.dtype)
        return np.where(kept, kept_as.approximate(left, target, palettes), 0)

    def encode(
        self, values: np.ndarray, target: str, palettes: Cluster, kept_as: Optional[Code] = None
    ) -> Masked:
        kept = np.abs(values.astype(np.float64)) > self.threshold(values)
        left = np.where(kept, values, 0).astype(values.dtype)
        return Masked(kept, kept_as.encode_kept(left, target, palettes) if kept_as else left)

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        options = dict(threshold=self.threshold(values), minimum_sparsity_percentile=0.0)
        return {'prune_weights': _config('OpThresholdPrunerConfig', **options)}

    def arrays(
        self, count: int, values: np.ndarray, target: str, kept_as: Storage = DENSE
    ) -> list[int]:
        """A mask of one bit for each weight, and those that stay."""
        kept = count - count * self.percent // 100
        return [_up(count, 8), *kept_as.arrays(kept, values, target)]


class Joint(Storage):
    """The smallest weights become zero, and those that stay are coded."""

    spelling = 'prune<percent>+int8, prune<percent>+palettize<bits>'
    words = {
        'constexpr_lut_to_sparse': 'pruned, palettized',
        'constexpr_sparse_blockwise_shift_scale': 'pruned, int8',
    }
    oldest = 'iOS18'
    reads = 'sparse weights with a table or integers'
    no_network = Sparse.no_network

    def __init__(self, sparse: Sparse, code: Code):
        self.sparse, self.code = sparse, code
        self.name = f'{sparse.name}+{code.name}'
        self.max_drop = code.max_drop + sparse.max_drop
        self.overhead = code.joint_overhead

    @classmethod
    def searched(cls) -> tuple[Storage, ...]:
        codes = (INT8, *map(Palette, (6, 4, 3, 2)))
        return tuple(cls(Sparse(percent), code) for code in codes for percent in (25, 50, 75))

    @classmethod
    def named(cls, name: str) -> Optional[Joint]:
        first, _, second = name.partition('+')
        sparse, code = Sparse.named(first), Int8.named(second) or Palette.named(second)
        return cls(sparse, code) if sparse and isinstance(code, Code) else None

    def approximate(self, values: np.ndarray, target: str, palettes: Cluster) -> np.ndarray:
        # Zeros are not stored, and need no entry of a table.
        clusters = functools.partial(palettes, sparse=True)
        return self.sparse.approximate(values, target, clusters, self.code)

    def encode(self, values: np.ndarray, target: str, palettes: Cluster) -> Masked:
        clusters = functools.partial(palettes, sparse=True)
        return self.sparse.encode(values, target, clusters, self.code)

    def passes(self, values: np.ndarray, target: str, palettes: Cluster) -> Passes:
        clusters = functools.partial(palettes, sparse=True)
        code = self.code.passes(values, target, clusters)
        return {**self.sparse.passes(values, target, palettes), **code}

    def for_weight(self, small: bool, last: bool) -> Storage:
        code = self.code.for_weight(small, last)
        return code if small else Joint(self.sparse, code)

    def arrays(self, count: int, values: np.ndarray, target: str) -> list[int]:
        return self.sparse.arrays(count, values, target, self.code)


def int8(values: np.ndarray, per_channel: bool = True) -> np.ndarray:
    """Round to 256 equidistant numbers from the least to the largest.

    That is coremltools' mode 'linear': zero is always among the numbers.

    Args:
        values: output channels first.
        per_channel: an own scale for every output channel; else one.

    Returns:
        float64, of the same shape.
    """
    rows = values.astype(np.float64).reshape(len(values) if per_channel else 1, -1)
    low = np.minimum(rows.min(1, keepdims=True), 0)
    high = np.maximum(rows.max(1, keepdims=True), 0)
    scale = (high - low) / 255
    scale[scale == 0] = 1
    zero = np.round(-128 - low / scale)
    steps = np.clip(np.round(rows / scale) + zero, -128, 127)
    return ((steps - zero) * scale).reshape(values.shape)


def _config(name: str, **options: Any) -> Any:
    """coremltools' options of a pass, for weights of any size."""
    return getattr(quiet.module('coremltools.optimize.coreml'), name)(weight_threshold=0, **options)


def _up(count: int, parts: int) -> int:
    """``count / parts``, rounded up."""
    return -(-count // parts)
