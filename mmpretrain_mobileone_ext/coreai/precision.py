"""An exported graph with its operations in fp16, but for those that stay in fp32.

The graph is torch's own (``torch.fx``), after the decompositions that the converter asks for. A
value is cast where an operation in fp16 reads one of fp32, or the other way round.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

_SHIFTS = (torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor)


def computing(graph: fx.Graph) -> Iterator[fx.Node]:
    """Nodes of a graph that compute numbers."""
    for node in graph.nodes:
        value = node.meta.get('val')
        if (
            node.op == 'call_function'
            and node.target is not operator.getitem
            and isinstance(value, Tensor)
            and value.dtype == torch.float32
        ):
            yield node


def normalizing(graph: fx.Graph) -> frozenset[str]:
    """Names of the operations that shift and scale pixels, before the network itself."""
    pixels = {node.name for node in graph.nodes if node.op == 'placeholder'}
    found = []
    for node in computing(graph):
        reads = [n.name for n in node.all_input_nodes if n.op != 'get_attr']
        if node.target in _SHIFTS and pixels.issuperset(reads):
            pixels.add(node.name)
            found.append(node.name)
    return frozenset(found)


class GraphRun(fx.Interpreter):
    """Runs an exported graph without the checks of its input, which the export made."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Leave a check out: no other module is called, all else are operations."""
        return None


class MixedPrecision(GraphRun):
    """Runs a float32 graph with casts, to be exported again.

    Args:
        graph: a float32 graph whose parameters are attributes.
        keep_fp32: names of nodes that stay in float32.
    """

    def __init__(self, graph: fx.GraphModule, keep_fp32: Collection[str] = ()):
        super().__init__(graph)
        self._half = {node.name for node in computing(graph.graph)} - set(keep_fp32)

    def run_node(self, node: fx.Node) -> Any:
        """Run one node on what it reads, cast."""
        if node.op != 'call_function' or node.target is operator.getitem:
            return super().run_node(node)
        dtype = torch.float16 if node.name in self._half else torch.float32
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda v: _cast(v, dtype))
        if isinstance(kwargs.get('dtype'), torch.dtype) and kwargs['dtype'].is_floating_point:
            kwargs = {**kwargs, 'dtype': dtype}
        return self.call_function(node.target, args, kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """All outputs are float32."""
        found = super().output(target, args, kwargs)
        return fx.node.map_aggregate(found, lambda v: _cast(v, torch.float32))


class AsModule(nn.Module):
    """A graph with casts as a module: what ``torch.export`` takes.

    Weights that fp16 operations read are stored as such.
    """

    def __init__(self, graph: fx.GraphModule, keep_fp32: Collection[str] = ()):
        super().__init__()
        self.body = _with_half_weights(graph, frozenset(keep_fp32))
        self._keep = frozenset(keep_fp32)

    def forward(self, *args: Tensor) -> Any:
        """Run it."""
        return MixedPrecision(self.body, self._keep).run(*args)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
        return value.to(dtype)
    return value


def _with_half_weights(graph: fx.GraphModule, keep: frozenset[str]) -> fx.GraphModule:
    """A copy whose attributes are fp16 where nothing reads them in fp32."""
    graph = copy.deepcopy(graph)
    half = {node.name for node in computing(graph.graph)} - keep
    readers: dict[str, set[str]] = {}
    for node in graph.graph.nodes:
        if node.op == 'get_attr':
            readers.setdefault(str(node.target), set()).update(n.name for n in node.users)
    for target, names in readers.items():
        owner, _, name = target.rpartition('.')
        module = graph.get_submodule(owner)
        value = getattr(module, name)
        if not (isinstance(value, Tensor) and value.dtype == torch.float32 and names <= half):
            continue
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value.detach().half(), requires_grad=False)
        else:
            setattr(module, name, value.half())
    return graph
