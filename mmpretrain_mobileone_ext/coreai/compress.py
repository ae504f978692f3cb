"""Compress an ``.aimodel``: its program is read, and its weights are stored another way.

The schemes are those of Core ML's files, with the same tables and the same rule for small weights.
``coreai-opt`` compresses either a network before it is converted or all of a program alike; here
each weight has its own form, and what is compressed is the file that was verified.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..coreml.compress.apply import Plan, Store
from ..coreml.compress.codes import Encoded, Indices, Integers, Masked
from ..coreml.compress.given import Trained
from ..coreml.compress.kmeans import Palettes
from ..coreml.compress.scheme import AUTO, SCHEMES, fixed_scheme, plan_for
from ..coreml.compress.search import search
from ..coreml.compress.storage import DENSE, Code, Joint, Sparse, Storage
from ..coreml.compress.trial import Candidate, Scores
from ..coreml.compress.weights import Weight
from ..errors import ExportError
from ..utils.text import Steps, one_line
from .extra import require
from .interpreter import METADATA, checked
from .worker import walk

SYSTEM = 'iOS27'
_CONV, _CONSTANT = 'coreai.conv2d', 'coreai.constant'
_CODE_BYTES, _MASK_BYTES = 60, 100
_DTYPES = {'f16': np.float16, 'f32': np.float32}
#: Steps of a search: the interpreter takes most of its time, and up to seconds an image.
_PROBES, _REPAIRS, _MORE = 8, 4, 6


def check_scheme(name: str) -> None:
    """Refuse a scheme that an ``.aimodel`` cannot hold.

    Raises:
        ExportError: unknown, or not one of weights.
    """
    if name in ('none', AUTO):
        return
    if not isinstance(fixed_scheme(name), (Storage, Trained)):
        held = [n for n in SCHEMES if isinstance(fixed_scheme(n), Storage)]
        raise ExportError(
            f'compress {name!r}: an .aimodel is compressed in its weights only; '
            f'allowed: none, {", ".join((*held, AUTO, Trained.name))}'
        )


def compress_file(source: Path, scheme: str, out: Path) -> Path:
    """Write ``source``, compressed by a fixed scheme, to ``out``.

    Args:
        source: ``.aimodel`` with fp16 or fp32 weights.
        scheme: a fixed scheme of weights.
        out: ``.aimodel`` that does not exist.

    Returns:
        ``out``.

    Raises:
        ExportError: nothing in it that the scheme would make smaller, or ``coreai-core`` is
            missing, or fails.
        ProgramError: the file is damaged.
    """
    wanted = fixed_scheme(scheme)
    if isinstance(wanted, Trained):
        raise wanted.alone(source)
    assert isinstance(wanted, Storage)  # check_scheme
    plan = plan_for(wanted, read_weights(source), SYSTEM, size_of)
    if not plan:
        raise ExportError(f'{source}: {scheme} would make none of its weights smaller')
    return apply_plan(source, plan, out, Palettes())


def search_smallest(
    source: Path,
    folder: Path,
    evaluate: Callable[[Path], Scores],
    baseline: Scores,
    max_drop: float,
    progress: Optional[Steps] = None,
) -> tuple[Candidate, ...]:
    """As ``coreml.compress.search.search``, in fewer steps; every file is for one system."""
    return search(
        source,
        folder,
        evaluate,
        baseline,
        max_drop,
        SYSTEM,
        progress,
        store=AIMODEL,
        max_probes=_PROBES,
        max_repairs=_REPAIRS,
        max_steps=_MORE,
    )


def read_weights(source: Path, target: str = SYSTEM) -> tuple[Weight, ...]:
    """The convolutions' dense weights, in execution order.

    Linear layers are convolutions here. The last weight is the classifier's if what it reads is
    one pixel. One that several convolutions share has the name of the first.

    Args:
        source: ``.aimodel``.
        target: unused: every file is for the same system.

    Raises:
        ExportError: the file cannot be read, or ``coreai-core`` is missing.
        ProgramError: the file is damaged.
    """
    program, read = _opened(source), _Reader()
    return tuple(w for w, _ in read.weights(program))


def apply_plan(source: Path, plan: Plan, out: Path, palettes: Palettes) -> Path:
    """Write a copy of ``source`` to ``out`` with weights stored by ``plan``.

    Interface and metadata stay.

    Args:
        source: ``.aimodel`` whose weights in the plan are dense.
        plan: name of a weight to storage.
        out: ``.aimodel`` that does not exist.
        palettes: remembers tables.

    Returns:
        ``out``.

    Raises:
        ExportError: the plan names no weight of the file, or ``coreai-core`` is missing, or fails.
        ProgramError: the file is damaged.
    """
    weights = {w.name: w for w in read_weights(source)}
    chosen = {name: storage for name, storage in plan.items() if storage != DENSE}
    unknown = sorted(chosen.keys() - weights.keys())
    if unknown:
        raise ExportError(
            f'{source} has no dense weight {", ".join(unknown)}; it has: {", ".join(weights)}'
        )
    encoded = {
        name: storage.encode(weights[name].values, SYSTEM, palettes)
        for name, storage in chosen.items()
    }
    return write_weights(source, encoded, out)


def write_weights(source: Path, encoded: Mapping[str, Encoded], out: Path) -> Path:
    """Write a copy of ``source`` to ``out`` with weights stored as given.

    Args:
        source: ``.aimodel`` whose weights of these names are dense.
        encoded: name of a weight to what is stored.
        out: ``.aimodel`` that does not exist.

    Returns:
        ``out``.

    Raises:
        ExportError: ``coreai-core`` is missing, or fails.
        ProgramError: the file is damaged.
    """
    program, read = _opened(source), _Reader()
    constants = {weight.name: constant for weight, constant in read.weights(program)}
    try:
        for name, stored in encoded.items():
            _Writer(constants[name]).replace(stored)
        program.save_asset(out)
    # The compiler's errors are of many types.
    except Exception as error:
        raise ExportError(
            f'{source}: coreai-core cannot store its weights so ({one_line(error, 500)})'
        ) from error
    # As it is: coreai-core reads and writes numbers and booleans as other ones.
    shutil.copyfile(source / METADATA, out / METADATA)
    return out


def size_of(storage: Storage, values: np.ndarray, target: str = SYSTEM) -> int:
    """Bytes of a weight in a program, its operations included: packed, and not aligned.

    Operations take what was measured on three networks whose weights were all stored alike: 40 to
    95 bytes for a code, 80 to 120 for a mask.
    """
    code = isinstance(storage, (Code, Joint))
    mask = isinstance(storage, (Sparse, Joint))
    arrays = storage.arrays(values.size, values, target)
    return sum(arrays) + _CODE_BYTES * code + _MASK_BYTES * mask


AIMODEL = Store(read_weights, apply_plan, size_of)


def _opened(source: Path) -> Any:
    require('to compress an .aimodel', error=ExportError)
    # A damaged program ends the process that reads it.
    checked(source)
    assets = import_module('coreai.authoring')
    try:
        return assets.AIModelAsset.load(source).program
    except Exception as error:
        raise ExportError(f'{source}: coreai-core cannot read it ({one_line(error)})') from error


class _Reader:
    """Finds the weights of a program."""

    def __init__(self) -> None:
        native = import_module('coreai._compiler._mlir_libs._coreaiIR._bindings')
        self._copy = native.compiler.copy_constant_value_to_array

    def weights(self, program: Any) -> Iterator[tuple[Weight, Any]]:
        """Each weight with the operation that holds it."""
        convs = [op for op in walk(program) if op.name == _CONV]
        seen: list[Any] = []
        for i, conv in enumerate(convs):
            constant = conv.operands[1].owner
            if not _is_dense(constant) or constant in seen:
                continue
            seen.append(constant)
            last = i == len(convs) - 1 and list(conv.operands[0].type.shape[2:]) == [1, 1]
            role = 'first' if i == 0 else 'last' if last else ''
            values = self._values(constant)
            depthwise = values.shape[1] == 1 and conv.operands[0].type.shape[1] > 1
            yield Weight(f'conv2d_{i}', 'conv', values, depthwise, role, ''), constant

    def _values(self, constant: Any) -> np.ndarray:
        type_ = constant.results[0].type
        values = np.empty(list(type_.shape), _DTYPES[str(type_.element_type)])
        raw = np.zeros(values.nbytes, np.uint8)
        self._copy(constant_op=constant, destination=raw)
        return raw.view(values.dtype).reshape(values.shape)


def _is_dense(owner: Any) -> bool:
    # The owner of a graph's input is no operation.
    if getattr(owner, 'name', '') != _CONSTANT:
        return False
    return str(owner.results[0].type.element_type) in _DTYPES


class _Writer:
    """Writes the operations that stand for one dense weight.

    Args:
        constant: the operation that holds it.
    """

    def __init__(self, constant: Any):
        self._constant = constant
        self._ir = import_module('coreai._compiler.ir')
        # The order matters: the dialect cannot be the first.
        self._ops = import_module('coreai.authoring')
        self._dialect = import_module('coreai._compiler.dialects.coreai')
        self._attribute = import_module('coreai._compiler.dialects.coreai.constant')
        self._float = constant.results[0].type.element_type

    def replace(self, encoded: Encoded) -> None:
        """Let all readers of the constant read ``encoded``."""
        old = self._constant
        with old.context, old.location, self._ir.InsertionPoint(old):
            new = self._written(encoded)
        old.results[0].replace_all_uses_with(new._to_mlir())
        old.erase()

    def _written(self, encoded: Encoded) -> Any:
        if isinstance(encoded, Masked):
            return self._masked(encoded.mask, encoded.kept)
        if isinstance(encoded, Integers):
            return self._scaled(self._numbers(encoded.codes, encoded.bits), encoded)
        if isinstance(encoded, Indices):
            indices = self._numbers(encoded.indices, encoded.bits)
            return self._ops.lut_to_dense(indices, *self._table(encoded))
        return self._floats(encoded)

    def _masked(self, mask: np.ndarray, kept: Encoded) -> Any:
        dense = self._ops.sparse_with_bitmask_to_dense
        if isinstance(kept, Integers):
            codes = self._numbers(kept.codes[mask], kept.bits)
            return self._scaled(dense(self._sparse(codes, mask)), kept)
        if isinstance(kept, Indices):
            indices = self._sparse(self._numbers(kept.indices[mask], kept.bits), mask)
            return dense(self._ops.lut_to_sparse_with_bitmask(indices, *self._table(kept)))
        assert isinstance(kept, np.ndarray)
        return dense(self._sparse(self._floats(kept[mask]), mask))

    def _sparse(self, values: Any, mask: np.ndarray) -> Any:
        bits = self._numbers(mask.astype(np.uint8), 1)
        return self._ops.build_sparse_with_bitmask(values, bits)

    def _scaled(self, data: Any, by: Integers) -> Any:
        scale, zero = self._floats(by.scale), self._numbers(by.zero, by.bits)
        nothing = self._floats(np.zeros_like(by.scale))
        return self._ops.blockwise_shift_scale(data, scale, zero, nothing)

    def _table(self, encoded: Indices) -> tuple[Any, Any]:
        """Tables (groups, 1, ..., entries, 1), and the axis of vectors, which these are not."""
        groups, entries = encoded.tables.shape
        ones = (1,) * (encoded.indices.ndim - 1)
        tables = self._floats(encoded.tables.reshape(groups, *ones, entries, 1))
        axis = self._held(np.zeros(1, np.int16), self._ir.IntegerType.get_signed(16), ())
        return tables, axis

    def _floats(self, values: np.ndarray) -> Any:
        return self._held(values, self._float, values.shape)

    def _numbers(self, values: np.ndarray, bits: int) -> Any:
        """int8 or uint8 numbers, packed to ``bits`` each."""
        signed = values.dtype == np.int8
        kinds = self._ir.IntegerType
        kind = (kinds.get_signed if signed else kinds.get_unsigned)(bits)
        columns = values.reshape(-1, 1).view(np.uint8)
        low = np.unpackbits(columns, axis=1, bitorder='little')[:, :bits]
        return self._held(np.packbits(low, bitorder='little'), kind, values.shape)

    def _held(self, raw: np.ndarray, kind: Any, shape: tuple[int, ...]) -> Any:
        type_ = self._ir.RankedTensorType.get(list(shape), kind)
        raw = np.ascontiguousarray(raw)
        raw.flags.writeable = False  # the compiler asks for it
        value = self._attribute.create_elements_attr(self._ir.Location.unknown(), type_, raw)
        return self._ops.Value._from_mlir(self._dialect.ConstantOp(value=value).result)
