"""Which operations of an ``.aimodel`` have to stay in fp32.

The graph that is converted is executed by torch, in float32 and with casts, on a few images. First
comes what leaves fp16 there, with what reads it; if that is not enough, operations follow in the
order of what each alone in fp16 does to the output. Files decide: what is proposed here is
converted and compared by whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ..coreml.front_end import kind_of
from ..models.preprocessing import Preprocessing
from ..utils.parity import FP16_OVERFLOWS, Tolerance, drifts, reaches, worst
from .convert import exported
from .precision import GraphRun, MixedPrecision, computing, normalizing


class _Ranges(GraphRun):
    """Runs a graph and remembers the largest absolute value of each node."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.found: dict[str, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            largest = float(value.abs().max())
            self.found[node.name] = max(largest, self.found.get(node.name, 0.0))
        return value


class Graph:
    """A network's graph on a few images, with any operations in fp32.

    Args:
        network: an ``export.network.Prepared``.
        preprocessing: what is baked in.
        images: (N, C, H, W), pixels 0 to 255 in the program's order.
        tolerance: what the outputs may differ by from those in float32.
    """

    def __init__(
        self, network: Any, preprocessing: Preprocessing, images: Tensor, tolerance: Tolerance
    ):
        self._graph = exported(network, preprocessing).module()
        self._images, self._tolerance = images, tolerance
        self._classes = not network.features
        self.shifts = normalizing(self._graph.graph)
        self.nodes = [n for n in computing(self._graph.graph) if n.name not in self.shifts]
        ranges = _Ranges(self._graph)
        self._wanted = self._outputs(ranges)
        self.ranges = ranges.found
        self.kinds = {node.name: kind_of(node) for node in self.nodes}

    def required(self) -> dict[str, str]:
        """Operations that leave fp16, and those that read them, with the reason."""
        found = {}
        for node in self.nodes:
            largest = self.ranges.get(node.name, 0.0)
            if largest < FP16_OVERFLOWS:
                continue
            found[node.name] = reaches(largest)
            for reader in node.users:
                found.setdefault(reader.name, reaches(largest, 'reads up to'))
        known = {node.name for node in self.nodes}
        return {name: why for name, why in found.items() if name in known}

    def passes(self, keep: frozenset[str]) -> bool:
        """Whether outputs with these in fp32 are within the tolerance."""
        return self._parity(keep).failure(self._tolerance) is None

    def by_damage(self) -> list[tuple[str, str]]:
        """Operations and why one would keep them, the most damaging first."""
        every = frozenset(node.name for node in self.nodes)
        damage = {name: self._parity(every - {name}).relative for name in every}
        # A NaN is the worst.
        order = sorted(every, key=lambda n: (damage[n] == damage[n], -damage[n], n))
        return [(name, drifts(damage[name])) for name in order]

    def _parity(self, keep: frozenset[str]) -> Any:
        found = self._outputs(MixedPrecision(self._graph, keep | self.shifts))
        return worst(self._wanted, found, classes=self._classes)

    def _outputs(self, run: fx.Interpreter) -> dict[str, Tensor]:
        with torch.no_grad():
            each = [run.run(image[None]) for image in self._images]
        parts = [out if isinstance(out, (tuple, list)) else (out,) for out in each]
        return {str(i): torch.cat(column).float() for i, column in enumerate(zip(*parts))}


def proposals(
    network: Any, preprocessing: Preprocessing, images: Tensor, tolerance: Tolerance
) -> Iterator[dict[str, tuple[str, str]]]:
    """Sets of operations to keep in fp32, each with its type and the reason; the smallest first.

    The arguments are those of :class:`Graph`. The last set is all of them.

    Raises:
        ExportError: the network cannot be exported.
    """
    graph = Graph(network, preprocessing, images, tolerance)
    for kept in _sets(graph):
        yield {name: (kind, kept[name]) for name, kind in graph.kinds.items() if name in kept}


def _sets(graph: Graph) -> Iterator[dict[str, str]]:
    required = graph.required()
    if graph.passes(frozenset(required)):
        yield required
    order = [pair for pair in graph.by_damage() if pair[0] not in required]
    few, many = 0, len(order)
    while many - few > 1:
        middle = (few + many) // 2
        if graph.passes(frozenset(required).union(n for n, _ in order[:middle])):
            many = middle
        else:
            few = middle
    while many < len(order):  # other images may be harder
        yield {**dict(order[:many]), **required}
        many = 2 * max(many, 1)
    yield {**dict(order), **required}
