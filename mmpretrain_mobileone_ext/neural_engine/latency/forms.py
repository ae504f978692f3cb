"""Forms of the model of time: how layers and a few positive parameters become milliseconds.

All of them are the roofline of the guide (S. H. Bryngelson, arXiv 2606.22283, ch. 9 and 18) for one
program: a floor, paid once, and for each layer the longer of computing and moving. They differ in
what is counted as moved and in what a layer costs beside that. Two baselines know only the total of
the multiply-adds, or of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .features import Layer

#: Bytes of the largest operand that stays on the chip (ch. 21; decoded for M1, and not above it).
WORKING_SET = 2 * 2**20
#: F(2 x 2, 3 x 3) replaces 36 products by 16 (ch. 13).
_WINOGRAD = 36 / 16
_CORES = 4  # of A13 to A18 (ch. 34); output channels go around them
_MS = 1e3


class Counts(NamedTuple):
    """What forms use of layers, an array of (layers,) each.

    Attributes:
        macs: multiply-adds as written.
        products: multiply-adds as computed: channels filled up to the cores, fewer by Winograd's
            transform.
        weights: bytes of weights, which come from memory once.
        maps: bytes of maps that a pass reads and writes.
        streamed: of these, in operands that do not stay on the chip.
        passes: 1 for what runs over its map in a pass of its own.
        reductions: 1 for what needs a whole map before anything of its result is known.
        tables: 1 for a function that is looked up.
        switches: changes of the processor before it.
    """

    macs: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    maps: np.ndarray
    streamed: np.ndarray
    passes: np.ndarray
    reductions: np.ndarray
    tables: np.ndarray
    switches: np.ndarray


def counts(layers: Sequence[Layer], working_set: float = WORKING_SET) -> Counts:
    """Count layers.

    Args:
        layers: of one file.
        working_set: bytes that one operand may have to stay on the chip.
    """
    rows = [_counted(layer, working_set) for layer in layers]
    columns = zip(*rows) if rows else [[]] * len(Counts._fields)
    return Counts(*(np.array(list(column), float) for column in columns))


def _counted(layer: Layer, working_set: float) -> tuple[float, ...]:
    is_pass = layer.kind != 'free' and not layer.is_fused
    maps = [2 * _size(s) for s in (*layer.inputs, *layer.outputs)] if is_pass else []
    # Of silu, the table is a pass, and the product with its operand the next.
    times = 2 if layer.type == 'silu' else 1
    return (
        layer.macs,
        products(layer),
        layer.weight_bytes if layer.kind != 'free' else 0,
        sum(maps) * times + (maps[0] if times == 2 else 0),
        sum(m for m in maps if m > working_set) * times,
        is_pass * times,
        layer.kind in ('reduce', 'norm', 'softmax'),
        layer.has_table,
        0,
    )


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def products(layer: Layer) -> float:
    """Multiply-adds as the engine computes them."""
    if layer.kind not in ('conv', 'depthwise'):
        return layer.macs
    channels = layer.outputs[0][1]
    padded = -(-channels // _CORES) * _CORES
    return layer.macs * padded / channels / (_WINOGRAD if layer.uses_winograd else 1)


class Parameter(NamedTuple):
    """One that is fitted, always positive; where a search begins."""

    name: str
    unit: str
    start: float


FLOOR = Parameter('floor', 'ms', 0.4)
RATE = Parameter('rate', 'G multiply-adds/s', 2000.0)
BANDWIDTH = Parameter('bandwidth', 'GB/s', 40.0)
PASS = Parameter('pass', 'µs', 2.0)
REDUCTION = Parameter('reduction', 'µs', 10.0)

Values = Mapping[str, float]


@dataclass(frozen=True)
class Form:
    """How layers become time.

    Attributes:
        name: short.
        words: what a layer costs.
        parameters: what is fitted; the first is the floor.
        layer_ms: counts and parameters to ms of each layer.
        is_baseline: looks at one total only.
    """

    name: str
    words: str
    parameters: tuple[Parameter, ...]
    layer_ms: Callable[[Counts, Values], np.ndarray]
    is_baseline: bool = False

    def total_ms(self, counted: Counts, values: Values) -> float:
        """Floor and all layers."""
        return values['floor'] + float(self.layer_ms(counted, values).sum())


def _compute(work: np.ndarray, values: Values) -> np.ndarray:
    return work / (values['rate'] * 1e9) * _MS


def _move(moved: np.ndarray, values: Values) -> np.ndarray:
    return moved / (values['bandwidth'] * 1e9) * _MS


def _flops(c: Counts, values: Values) -> np.ndarray:
    return _compute(c.macs, values)


def _params(c: Counts, values: Values) -> np.ndarray:
    return _move(c.weights, values)


def _roofline(c: Counts, values: Values) -> np.ndarray:
    return np.maximum(_compute(c.products, values), _move(c.weights + c.streamed, values))


def _traffic(c: Counts, values: Values) -> np.ndarray:
    return np.maximum(_compute(c.products, values), _move(c.weights + c.maps, values))


def _passes(c: Counts, values: Values) -> np.ndarray:
    return _traffic(c, values) + c.passes * values['pass'] / _MS


def _reductions(c: Counts, values: Values) -> np.ndarray:
    return _traffic(c, values) + c.reductions * values['reduction'] / _MS


FORMS = {
    form.name: form
    for form in (
        Form('flops', 'multiply-adds / rate', (FLOOR, RATE), _flops, is_baseline=True),
        Form('params', 'weights / bandwidth', (FLOOR, BANDWIDTH), _params, is_baseline=True),
        Form(
            'roofline',
            'the longer of products / rate and (weights + maps above 2 MiB) / bandwidth',
            (FLOOR, RATE, BANDWIDTH),
            _roofline,
        ),
        Form(
            'traffic',
            'the longer of products / rate and (weights + all maps) / bandwidth',
            (FLOOR, RATE, BANDWIDTH),
            _traffic,
        ),
        Form(
            'passes',
            'traffic, and a constant for each pass over a map',
            (FLOOR, RATE, BANDWIDTH, PASS),
            _passes,
        ),
        Form(
            'reductions',
            'traffic, and a constant for each reduction of a whole map',
            (FLOOR, RATE, BANDWIDTH, REDUCTION),
            _reductions,
        ),
    )
}
