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

from ...runtime.engine.chips import BYTES, CHIPS, DEFAULT_CHIP, Chip
from .features import Layer

#: What the published latencies were measured on.
FITTED = CHIPS[DEFAULT_CHIP]
#: F(2 x 2, 3 x 3) replaces 36 products by 16 (ch. 13).
_WINOGRAD = 36 / 16
#: A looked-up function comes with 33 knots, a value and a slope each (ch. 3 and 20).
_TABLE_BYTES = 33 * 2 * BYTES
#: Numbers of a map that these read are used once, not for many output channels.
_BARE = frozenset(
    ('depthwise', 'pool', 'reduce', 'function', 'arithmetic', 'norm', 'softmax', 'move')
)
_REDUCING = frozenset(('reduce', 'norm', 'softmax'))
_MS = 1e3


class Counts(NamedTuple):
    """What forms use of layers, an array of (layers,) each.

    Attributes:
        macs: multiply-adds as written.
        products: multiply-adds as computed: channels filled up to the cores, fewer by Winograd's
            transform.
        weights: bytes of weights and of tables, which come from memory once.
        maps: bytes of maps that a pass reads and writes.
        bare: of these, where a number that is read is used once.
        streamed: of these, in operands that do not stay on the chip.
        reductions: 1 for what needs a whole map before anything of its result is known.
        tables: 1 for a function that is looked up.
    """

    macs: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    maps: np.ndarray
    bare: np.ndarray
    streamed: np.ndarray
    reductions: np.ndarray
    tables: np.ndarray


def count(layers: Sequence[Layer], chip: Chip = FITTED) -> Counts:
    """Count the layers of one file, as the engine of a chip runs them."""
    rows = [_counted(layer, chip) for layer in layers]
    columns = zip(*rows) if rows else [[]] * len(Counts._fields)
    return Counts(*(np.array(list(column), float) for column in columns))


def _counted(layer: Layer, chip: Chip) -> tuple[float, ...]:
    maps = layer.map_bytes if layer.is_pass else ()
    if layer.type == 'silu':
        # Read and written by the table, then both maps read by the product, which writes one.
        maps = (*maps, maps[0], *maps)
    stored = 0 if layer.kind == 'free' else layer.weight_bytes
    return (
        layer.macs,
        products(layer, chip),
        stored + layer.has_table * _TABLE_BYTES,
        sum(maps),
        sum(maps) if layer.kind in _BARE else 0,
        sum(m for m in maps if m > working_set(chip)),
        layer.kind in _REDUCING,
        layer.has_table,
    )


def working_set(chip: Chip) -> int:
    """Bytes of the largest operand that stays on the chip (ch. 21)."""
    return chip.limit('working set').value or 0


def products(layer: Layer, chip: Chip = FITTED) -> float:
    """Multiply-adds as the engine computes them; output channels go around its cores (ch. 34)."""
    if layer.kind not in ('conv', 'depthwise'):
        return layer.macs
    channels = layer.outputs[0][1]
    filled = -(-channels // chip.cores) * chip.cores
    return layer.macs * filled / channels / (_WINOGRAD if layer.uses_winograd else 1)


class Parameter(NamedTuple):
    """One that is fitted, always positive; where a search begins."""

    name: str
    unit: str
    start: float


FLOOR = Parameter('floor', 'ms', 0.4)
RATE = Parameter('rate', 'G multiply-adds/s', 2000.0)
BANDWIDTH = Parameter('bandwidth', 'GB/s', 40.0)
MAPS = Parameter('maps', 'GB/s', 100.0)
REDUCTION = Parameter('reduction', '\u00b5s', 10.0)
TABLE = Parameter('table', '\u00b5s', 1.0)

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


def _reductions(c: Counts, values: Values) -> np.ndarray:
    return _roofline(c, values) + c.reductions * values['reduction'] / _MS


def _maps(c: Counts, values: Values) -> np.ndarray:
    return np.maximum(_roofline(c, values), c.bare / (values['maps'] * 1e9) * _MS)


#: What a layer of the form 'maps' may wait for.
WAITS = ('products', 'memory', 'maps on the chip')


def waits_of(c: Counts, values: Values) -> np.ndarray:
    """For each layer the place in :data:`WAITS` of what takes it longest, by the form 'maps'."""
    times = (
        _compute(c.products, values),
        _move(c.weights + c.streamed, values),
        c.bare / (values['maps'] * 1e9) * _MS,
    )
    return np.argmax(times, axis=0)


def _maps_and_reductions(c: Counts, values: Values) -> np.ndarray:
    return _maps(c, values) + c.reductions * values['reduction'] / _MS


def _tables(c: Counts, values: Values) -> np.ndarray:
    return _maps(c, values) + c.tables * values['table'] / _MS


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
            'reductions',
            'roofline, and a constant for each reduction of a whole map',
            (FLOOR, RATE, BANDWIDTH, REDUCTION),
            _reductions,
        ),
        Form(
            'traffic',
            'the longer of products / rate and (weights + all maps) / bandwidth',
            (FLOOR, RATE, BANDWIDTH),
            _traffic,
        ),
        Form(
            'maps',
            'the longer of roofline and maps whose numbers are used once / bandwidth on the chip',
            (FLOOR, RATE, BANDWIDTH, MAPS),
            _maps,
        ),
        Form(
            'maps and reductions',
            'maps, and a constant for each reduction of a whole map',
            (FLOOR, RATE, BANDWIDTH, MAPS, REDUCTION),
            _maps_and_reductions,
        ),
        Form(
            'maps and tables',
            'maps, and a constant for each function that is looked up in a table',
            (FLOOR, RATE, BANDWIDTH, MAPS, TABLE),
            _tables,
        ),
    )
}
#: The one that estimates are made with.
CHOSEN = 'maps'
