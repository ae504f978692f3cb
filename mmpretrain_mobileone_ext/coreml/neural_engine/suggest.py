"""What to change in a network, with the time that each change saves by the estimate.

A suggestion changes the layers of the very file and estimates them anew. It says nothing of
accuracy: a changed network has to be trained again, but for weights that are only stored
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Optional

from ...utils.text import counted
from ..runtime.engine.chips import TIERS, Chip
from .latency.estimate import ORDER, Estimate, Estimator
from .latency.features import INPUT, Layer, Shape
from .latency.forms import working_set

Layers = tuple[Layer, ...]

#: Of a change that no network of the fit had.
UNSEEN = 'predicted, not fitted to stored weights of few bits'
#: Less than this part of the whole is no gain to speak of.
_LEAST = 0.01
_STEP = 32  # pixels; what classifiers shrink an image by
_PALETTE_BITS = 4
#: A palette of fewer numbers than its own size is no gain.
_FEWEST = 1024
_SMOOTH = frozenset(('silu', 'gelu', 'elu', 'tanh', 'softplus'))
_WEIGHTED = frozenset(('conv', 'depthwise', 'linear'))


@dataclass(frozen=True)
class Suggestion:
    """One change, and what it saves.

    Attributes:
        change: what to write.
        why: what it costs now, with the guide's chapter.
        places: layers that it changes.
        ms: estimate of the changed network.
        gain_ms: that it saves; 0 where the model of time sees none.
        share: of the estimate of the file.
        label: how far to believe it.
    """

    change: str
    why: str
    places: int
    ms: float
    gain_ms: float
    share: float
    label: str

    @property
    def sentence(self) -> str:
        """One line."""
        gain = f'{self.gain_ms:.2f} ms ({100 * self.share:.0f} %), {self.label}'
        if self.share < _LEAST:
            gain = 'no gain by the estimate'
        return f'{gain}: {self.change}, in {counted(self.places, "place")}: {self.why}'

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class _Change(NamedTuple):
    """A changed network, and how many layers differ."""

    layers: Layers
    places: int
    change: str
    why: str
    label: str = ''
    is_shown_without_gain: bool = False


_Changing = Callable[[Layers, Chip], Optional[_Change]]


def suggest(layers: Sequence[Layer], estimator: Estimator) -> tuple[Suggestion, ...]:
    """Changes that apply to a network, those that save most first.

    Args:
        layers: of the file.
        estimator: of the chip.

    Returns:
        tuple[Suggestion, ...]: only those that save at least 1 % by the estimate, and a head to
        be written as a convolution, which saves none.
    """
    given = tuple(layers)
    before = estimator(given)
    changes = (change(given, estimator.chip) for change in CHANGES)
    found = [_judged(c, before, estimator(c.layers)) for c in changes if c is not None]
    kept = [s for s, is_shown in found if is_shown]
    return tuple(sorted(kept, key=lambda s: -s.gain_ms))


def _judged(change: _Change, before: Estimate, after: Estimate) -> tuple[Suggestion, bool]:
    gain = max(0.0, before.ms - after.ms)
    found = Suggestion(
        change=change.change,
        why=change.why,
        places=change.places,
        ms=after.ms,
        gain_ms=gain,
        share=gain / before.ms,
        label=(before.label != ORDER and change.label) or before.label,
    )
    return found, gain >= _LEAST * before.ms or change.is_shown_without_gain


# Squeeze-and-excitation.


class _Gate(NamedTuple):
    """The layers from the mean of a map to the product with it."""

    source: int
    inner: frozenset[int]
    product: int


def _gates(layers: Layers) -> Iterator[_Gate]:
    for i, layer in enumerate(layers):
        if layer.kind == 'reduce' and _pixels(layer.inputs[0]) > 1 == _pixels(layer.outputs[0]):
            gate = _gate(layers, i)
            if gate is not None:
                yield gate


def _gate(layers: Layers, start: int) -> Optional[_Gate]:
    """Where what follows a mean ends in a product with the map it is the mean of."""
    source, inner = layers[start].reads[0], {start}
    for i in range(start + 1, len(layers)):
        layer = layers[i]
        if inner.isdisjoint(layer.reads):
            continue
        if layer.type == 'mul' and source in layer.reads:
            return _Gate(source, frozenset(inner), i)
        if any(_pixels(shape) > 1 for shape in layer.outputs):
            return None
        inner.add(i)
    return None


def _pixels(shape: Shape) -> int:
    return math.prod(shape[2:]) if len(shape) > 2 else 1


def _without_gates(layers: Layers, _: Chip) -> Optional[_Change]:
    gates = list(_gates(layers))
    if not gates:
        return None
    gone: dict[int, int] = {}
    for gate in gates:
        gone.update(dict.fromkeys((*gate.inner, gate.product), gate.source))
    why = (
        'each reads a whole map for its mean before it can scale it, and runs over it twice more '
        '(ch. 20)'
    )
    change = 'leave squeeze-and-excitation out'
    return _Change(_without(layers, gone), len(gates), change, why)


def _without(layers: Layers, gone: Mapping[int, int]) -> Layers:
    """Leave layers out; who read one of them reads what it is mapped to."""
    places = {INPUT: INPUT}
    kept: list[Layer] = []
    for i, layer in enumerate(layers):
        if i in gone:
            continue
        reads = tuple(places[_followed(r, gone)] for r in layer.reads)
        places[i] = len(kept)
        kept.append(replace(layer, reads=reads))
    return tuple(kept)


def _followed(place: int, gone: Mapping[int, int]) -> int:
    while place in gone:
        place = gone[place]
    return place


# Activations.


def _with_relu(layers: Layers, _: Chip) -> Optional[_Change]:
    changed, gone, places = list(layers), {}, 0
    names: dict[str, None] = {}
    for i, layer in enumerate(layers):
        inner = _self_gate(layers, i)
        if layer.type in _SMOOTH and layer.kind == 'function':
            names[layer.type] = None
        elif inner:
            names['x * f(x), as hard-swish'] = None
            gone.update(dict.fromkeys(inner, layers[min(inner)].reads[0]))
        else:
            continue
        source = layers[min(inner)].reads[0] if inner else layer.reads[0]
        shape = layer.outputs
        changed[i] = replace(
            layer, type='relu', kind='function', inputs=shape, reads=(source,), is_fused=True
        )
        places += 1
    if not places:
        return None
    change = f'ReLU instead of {", ".join(names)}'
    why = (
        'x * f(x) runs over its map twice, once for the table or the steps of f and once for the '
        'product; ReLU costs nothing where the map is made (ch. 13)'
    )
    return _Change(_without(tuple(changed), gone), places, change, why)


def _self_gate(layers: Layers, place: int) -> frozenset[int]:
    """The functions f of a product x * f(x) of one map; empty for any other layer."""
    layer = layers[place]
    if layer.type != 'mul' or layer.kind != 'arithmetic' or len(layer.reads) != 2:
        return frozenset()
    for source, last in (layer.reads, layer.reads[::-1]):
        inner, at = set(), last
        while at != INPUT and at != source and layers[at].kind == 'function':
            inner.add(at)
            at = layers[at].reads[0]
        if inner and at == source:
            return frozenset(inner)
    return frozenset()


# Shapes.


def _with_small_kernels(layers: Layers, _: Chip) -> Optional[_Change]:
    changed, places = [], 0
    for layer in layers:
        old, new = layer.kernel, (min(3, layer.kernel[0]), min(3, layer.kernel[1]))
        # A kernel that is smaller than its steps leaves numbers out.
        if layer.kind in ('conv', 'depthwise') and new != old and max(layer.stride) <= 3:
            before, after = math.prod(old), math.prod(new)
            layer = replace(
                layer,
                kernel=new,
                macs=layer.macs * after // before,
                weights=layer.weights * after // before,
            )
            places += 1
        changed.append(layer)
    if not places:
        return None
    why = 'products and accumulators grow with the area of a kernel (ch. 13 and 20)'
    return _Change(tuple(changed), places, 'kernels with sides of 3 instead of longer ones', why)


def _with_whole_channels(layers: Layers, chip: Chip) -> Optional[_Change]:
    changed, places, cores, inner = [], 0, chip.cores, _inner(layers)
    for i, layer in enumerate(layers):
        is_free = layer.kind in ('conv', 'depthwise') and i in inner
        channels = layer.outputs[0][1] if is_free else 0
        whole = channels // cores * cores
        if 0 < whole < channels:
            layer = replace(
                layer,
                outputs=((layer.outputs[0][0], whole, *layer.outputs[0][2:]),),
                macs=layer.macs * whole // channels,
                weights=layer.weights * whole // channels,
            )
            places += 1
        changed.append(layer)
    if not places:
        return None
    change = f'channels that are multiples of {cores}, rounded down'
    why = f'output channels go around {cores} cores; what is left over fills them up (ch. 17, 20)'
    return _Change(tuple(changed), places, change, why)


def _inner(layers: Layers) -> frozenset[int]:
    """Places of layers behind which weights follow; the channels of others are the results."""
    found: set[int] = set()
    for i in range(len(layers) - 1, -1, -1):
        if i in found or layers[i].kind in _WEIGHTED:
            found.update(layers[i].reads)
    return frozenset(found)


def _with_large_first_stride(layers: Layers, _: Chip) -> Optional[_Change]:
    """The first convolution with twice its stride, and half the side of every map behind it."""
    first = next((i for i, layer in enumerate(layers) if layer.kind == 'conv'), None)
    if first is None or layers[first].stride != (2, 2) or len(layers[first].outputs[0]) != 4:
        return None
    stem = replace(at_resolution(layers[first], 0.5), stride=(4, 4), inputs=layers[first].inputs)
    behind = (at_resolution(layer, 0.5) for layer in layers[first + 1 :])
    change = 'the first convolution with stride 4 instead of 2'
    why = 'every map and product behind it shrinks to a quarter; strides to 4 are native (ch. 17)'
    return _Change((*layers[:first], stem, *behind), 1, change, why)


def _with_fitting_resolution(layers: Layers, chip: Chip) -> Optional[_Change]:
    """The largest side of which every map stays on the chip."""
    side = next((s for s in _sides(layers) if s % _STEP == 0), None)
    if side is None or not _exceeds(layers, chip):
        return None
    for smaller in range(side - _STEP, 0, -_STEP):
        scaled = tuple(at_resolution(layer, smaller / side) for layer in layers)
        if not _exceeds(scaled, chip):
            break
    else:
        return None
    places = sum(max(layer.map_bytes, default=0) > working_set(chip) for layer in layers)
    change = f'images of {smaller} pixels instead of {side}'
    why = f'maps above {working_set(chip) // 2**20} MiB do not stay on the chip (ch. 21)'
    return _Change(scaled, places, change, why)


def _sides(layers: Iterable[Layer]) -> Iterator[int]:
    """Sides of square inputs of the network."""
    for layer in layers:
        for place, shape in zip(layer.reads, layer.inputs):
            if place == INPUT and len(shape) == 4 and shape[2] == shape[3]:
                yield shape[3]


def _exceeds(layers: Iterable[Layer], chip: Chip) -> bool:
    return any(layer.is_pass and max(layer.map_bytes) > working_set(chip) for layer in layers)


def at_resolution(layer: Layer, factor: float) -> Layer:
    """A layer of a network whose images have ``factor`` times the side; weights stay.

    Maps (N, C, H, W) shrink, rounded up, to 1 x 1 at least; other shapes stay.
    """
    outputs = tuple(_resized(shape, factor) for shape in layer.outputs)
    before, after = sum(map(math.prod, layer.outputs)), sum(map(math.prod, outputs))
    return replace(
        layer,
        inputs=tuple(_resized(shape, factor) for shape in layer.inputs),
        outputs=outputs,
        macs=layer.macs * after // before if before else layer.macs,
    )


def _resized(shape: Shape, factor: float) -> Shape:
    if len(shape) != 4:
        return shape
    return (*shape[:2], *(max(1, math.ceil(n * factor)) for n in shape[2:]))


# Weights, and the head.


def _with_palettes(layers: Layers, chip: Chip) -> Optional[_Change]:
    changed, places = [], 0
    for layer in layers:
        is_large = layer.kind in _WEIGHTED and layer.weights >= _FEWEST
        # Engines expand the others, and before the A13 all (ch. 7 and 25).
        streams = layer.stride == layer.dilation == (1, 1) and chip.tier != TIERS[0]
        if is_large and streams and layer.weight_bits > _PALETTE_BITS:
            layer = replace(layer, weight_bits=_PALETTE_BITS)
            places += 1
        changed.append(layer)
    if not places:
        return None
    change = f'weights of {_PALETTE_BITS} bits (--compress palettize4)'
    why = (
        'layers with many weights for their map wait for them; palettes of 4 bits stream on every '
        'chip since the A13 (ch. 7); the exporter checks what they cost in accuracy'
    )
    return _Change(tuple(changed), places, change, why, UNSEEN)


def _with_convolution_head(layers: Layers, _: Chip) -> Optional[_Change]:
    heads = [i for i, layer in enumerate(layers) if layer.type in ('linear', 'matmul')]
    heads = [i for i in heads if layers[i].kind == 'linear']
    if len(heads) != 1:
        return None
    why = (
        'a fully connected layer runs as one only where its operand fits (ch. 17); the model of '
        'time sees no difference'
    )
    return _Change(layers, 1, 'the head as a 1 x 1 convolution', why, is_shown_without_gain=True)


CHANGES: tuple[_Changing, ...] = (
    _without_gates,
    _with_relu,
    _with_small_kernels,
    _with_whole_channels,
    _with_large_first_stride,
    _with_fitting_resolution,
    _with_palettes,
    _with_convolution_head,
)
