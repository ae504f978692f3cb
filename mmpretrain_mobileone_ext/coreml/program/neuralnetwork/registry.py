"""The table of neural network layer kinds, and the means to translate them to MIL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np

from ....errors import ProgramError
from ..budget import Ledger
from ..graph import Operation, Value

# Bytes of a number on its way to fp32: 8 bits, a code, two floats.
_WIDEST = 32


class Emitter:
    """Collects the MIL operations that neural network layers stand for.

    Args:
        renamed (dict[str, str]): Values that stand in for others; the preprocessed image for the
            image.
        ledger (Ledger): Takes the bytes of the weights.
    """

    def __init__(self, renamed: dict[str, str], ledger: Ledger) -> None:
        self._ledger = ledger
        self._renamed = renamed
        self._constants: dict[str, Any] = {}
        self._layer: Any = None
        self.operations: list[Operation] = []

    def enter(self, layer: Any) -> None:
        """Translate a layer.

        Raises:
            ProgramError: Its kind, or a variant of it, is not supported.
        """
        self._layer = layer
        if self.kind not in LAYERS:
            raise ProgramError(
                f'layer {layer.name!r} is of kind {self.kind!r}, which the reference runtime does '
                f'not implement; implemented: {", ".join(sorted(LAYERS))}'
            )
        LAYERS[self.kind](self)

    @property
    def params(self) -> Any:
        """The parameters message of the current layer."""
        return getattr(self._layer, self.kind)

    @property
    def kind(self) -> str:
        """The current layer's kind, as spelled in the file."""
        return str(self._layer.WhichOneof('layer'))

    def source(self) -> Any:
        """The first input of the current layer: reference or loaded constant."""
        return self.sources()[0]

    def sources(self) -> tuple[Any, ...]:
        """All inputs of the current layer."""
        names = [self._renamed.get(n, n) for n in self._layer.input]
        return tuple(self._constants.get(n, Value(n)) for n in names)

    def weights(self, params: Any, shape: Optional[Sequence[int]] = None) -> np.ndarray[Any, Any]:
        """Decode a ``WeightParams`` message to fp32.

        Args:
            params (WeightParams): fp32, fp16, or quantized to 1..8 bits (linear per first
                dimension, or a lookup table).
            shape (Sequence[int] | None): Shape of the result; None keeps 1-D.

        Raises:
            ProgramError: If the weights are stored in another way, do not fill the shape, or take
                too much.
        """
        count = len(params.floatValue) + len(params.float16Value) // 2
        if params.HasField('quantization'):
            bits = int(params.quantization.numberOfBits)
            count = len(params.rawValue) * 8 // max(1, bits)
        what = f'layer {self._layer.name!r}: weights'
        self._ledger.check(_WIDEST * count, what)
        found = _decoded(params, None if shape is None else math.prod(shape))
        self._ledger.hold(found.nbytes, what)
        if shape is None:
            return found
        if found.size != math.prod(shape):
            raise ProgramError(f'{found.size} weights do not fill a tensor of shape {tuple(shape)}')
        return found.reshape(shape)

    def bias(self) -> Optional[np.ndarray[Any, Any]]:
        """The bias of the current layer, if it has one."""
        return self.weights(self.params.bias) if self.params.hasBias else None

    def load(self, array: Any) -> None:
        """Declare the current layer's output to be a constant."""
        self._constants[self._layer.output[0]] = array

    def emit(self, op_type: str, last: bool = True, **inputs: Any) -> Value:
        """Append one operation.

        Args:
            op_type (str): MIL operation type.
            last (bool): Whether the result is the layer's output; an
                intermediate result gets a name of its own.
            **inputs: MIL parameters; None is left out.
        """
        name = self._layer.name
        step = name if last else f'{name}__{op_type}__'
        outputs = tuple(self._layer.output) if last else (step,)
        self.operations.append(
            Operation(
                name=step,
                type=op_type,
                inputs={k: v for k, v in inputs.items() if v is not None},
                outputs=outputs,
                dtypes=('fp32',) * len(outputs),
                attributes={'layer': self.kind},
            )
        )
        return Value(outputs[0])

    def refuse(self, what: str) -> ProgramError:
        """Return the error for a variant of a layer that is unsupported."""
        return ProgramError(
            f'layer {self._layer.name!r} ({self.kind}): {what} is not '
            f'supported by the reference runtime'
        )


_Translate = Callable[[Emitter], Any]

LAYERS: dict[str, _Translate] = {}


def layer(*kinds: str) -> Callable[[_Translate], _Translate]:
    """Register the translation of neural network layer kinds to MIL."""

    def register(function: _Translate) -> _Translate:
        LAYERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def direct(kind: str, op_type: str, inputs: str = 'x', **fields: str) -> None:
    """Register a layer kind that is one MIL operation.

    Args:
        kind (str): Layer kind.
        op_type (str): MIL operation type.
        inputs (str): The operation's parameters for the layer's inputs;
            ``'*values'`` is a list of all.
        **fields (str): Further parameters, and the fields of the layer's
            message that hold them; lists without an entry are left out.
    """

    @layer(kind)
    def translate(emit: Emitter) -> None:
        params = {name: _plain(getattr(emit.params, field)) for name, field in fields.items()}
        names, sources = inputs.split(), emit.sources()
        if inputs.startswith('*'):
            names, sources = [inputs[1:]], (sources,)
        if len(sources) != len(names):
            raise emit.refuse(f'a number of inputs other than {len(names)}')
        emit.emit(op_type, **dict(zip(names, sources)), **params)


def _plain(value: Any) -> Any:
    """A field as Python has it: a number, or a list; None for an empty list."""
    return value if isinstance(value, (int, float, str)) else list(value) or None


def edges(amounts: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """``BorderAmounts`` as (top, bottom), (left, right); 0 if unset."""
    pairs = [(int(edge.startEdgeSize), int(edge.endEdgeSize)) for edge in amounts.borderAmounts]
    return (pairs[0], pairs[1]) if pairs else ((0, 0), (0, 0))


def _decoded(params: Any, size: Optional[int]) -> np.ndarray[Any, Any]:
    """Weights in one dimension; codes may be followed by bits of padding."""
    if params.floatValue:
        return np.array(params.floatValue, dtype=np.float32)
    if params.float16Value:
        return np.frombuffer(params.float16Value, dtype=np.float16).astype(np.float32)
    if params.rawValue and params.HasField('quantization'):
        return _dequantized(params, size)
    raise ProgramError(
        'a layer stores its weights in an unsupported way; supported: fp32, '
        'fp16, quantized to 1..8 bits'
    )


def _dequantized(params: Any, size: Optional[int]) -> np.ndarray[Any, Any]:
    """Codes are packed most significant bit first."""
    quantization = params.quantization
    bits = int(quantization.numberOfBits)
    stream = np.unpackbits(np.frombuffer(params.rawValue, dtype=np.uint8))
    count = stream.size // bits if size is None else size
    digits = stream[: count * bits].reshape(count, bits)
    codes = digits @ (1 << np.arange(bits)[::-1])
    if quantization.WhichOneof('QuantizationType') != 'linearQuantization':
        table = np.array(quantization.lookupTableQuantization.floatValue)
        return table[codes].astype(np.float32)
    linear = quantization.linearQuantization
    scale, bias = np.array(linear.scale), np.array(linear.bias)
    by_channel = codes.reshape(scale.size, -1)
    dense = by_channel * scale[:, None] + bias[:, None]
    return dense.astype(np.float32).reshape(-1)
