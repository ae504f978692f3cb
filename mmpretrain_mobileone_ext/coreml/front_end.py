"""A network as a converter takes it: exported by ``torch.export``, else traced.

``torch.jit.trace`` is deprecated, so networks are exported. Both give coremltools 9 the same
operations, with three exceptions, which are traced:

- what works in place on parts of a tensor, as ``x[:, a:b] = y`` and ``relu_`` on a chunk: without
  such operations, an exported program takes the whole apart again each time (268 operations rather
  than 186 for a small Swin Transformer, 337 rather than 257 for Res2Net-50);
- what gives an operation a keyword that coremltools does not read: it converts
  ``gelu(x, approximate='tanh')`` as the exact GELU (relative error 6e-5), without a word;
- whatever cannot be exported, or converted once it is.

An exported operation has the name of its module, 'stage1_0_act', where a traced one has a number,
'input_7'.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError, ParityError
from ..utils.machine import untouched_rng
from ..utils.parity import Tolerance, worst
from ..utils.text import one_line
from .program import quiet
from .targets import EXPORT

Shape = tuple[int, int, int, int]
TRACE = 'torch.jit.trace'
#: The torch that coremltools 9 was tested with; exports of older ones differ.
_FIRST_TORCH = (2, 7)
#: Keywords of exported operations that coremltools 9 reads, or that say nothing about numbers.
_KEYWORDS = {
    *('device', 'layout', 'memory_format', 'pin_memory'),
    *('correction', 'dtype', 'rounding_mode', 'scale'),
}
#: What takes a tensor apart or writes into it; of an exported program, only as often as before.
_PARTS = {
    *('chunk', 'split', 'split_with_sizes'),
    *('copy_', 'fill_', 'slice_scatter', 'select_scatter'),
}
_LAYER = 'torch.nn.modules.'
#: Modules that say nothing of an operation: a name occurs in a file a dozen times.
_HOLDERS = ('backbone', 'branch_reparam', 'module', 'neck')
_SAME = Tolerance('graph', 1e-4)


class FrontEnds:
    """A network as a converter takes it, made once however often it is converted.

    Args:
        graph: in eval mode, takes float32 (N, C, H, W).
        shapes: all that it must take, the default first.
    """

    def __init__(self, graph: nn.Module, shapes: Sequence[Shape]):
        self._graph = graph
        self._shapes = shapes
        self._no_export = ''  # why it is traced

    def convert(self, convert: Callable[[Any], Any]) -> tuple[Any, str]:
        """Convert the exported network, or the traced one where that fails.

        Args:
            convert: makes a Core ML model of a program, which it leaves as it is; raises whatever
                it likes.

        Returns:
            What ``convert`` returned, and the front end in words: 'torch.export', or
            'torch.jit.trace' with the reason.

        Raises:
            ExportError: the network is for the first shape only.
        """
        if not self._no_export:
            try:
                with quiet.first_try():
                    return convert(self._exported), EXPORT
            except ExportError as error:
                self._no_export = str(error)
            # Whatever coremltools cannot do with the one it may do with the other.
            except Exception as error:
                self._no_export = f'coremltools: {one_line(error)}'
        return convert(self._traced), f'{TRACE}: {self._no_export}'

    @functools.cached_property
    def _exported(self) -> Any:
        return for_coremltools(self._graph, self._shapes)

    @functools.cached_property
    def _traced(self) -> Any:
        return traced(self._graph, self._shapes)


def exported(module: nn.Module, shapes: Sequence[Sequence[int]]) -> Any:
    """The ``ExportedProgram`` of a module, before any decomposition.

    Args:
        module: takes one tensor.
        shapes: of it, the default first; where they differ, the program takes any size.

    Raises:
        ExportError: torch cannot export it, or not for all shapes.
    """
    first, changes = tuple(shapes[0]), [len(set(sizes)) > 1 for sizes in zip(*shapes)]
    # A size of 1 would stay 1 for ever.
    example = torch.zeros([max(size, 2) if c else size for size, c in zip(first, changes)])
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis, c in enumerate(changes) if c}
    try:
        with torch.no_grad(), untouched_rng(), quiet.exporting():
            return torch.export.export(
                module.eval(),
                (example,),
                dynamic_shapes=(dynamic,) if dynamic else None,
                strict=False,  # by running it in Python, not by compiling it
            )
    # Any network runs here.
    except Exception as error:
        raise ExportError(f'torch.export cannot export the network ({one_line(error)})') from error


def for_coremltools(graph: nn.Module, shapes: Sequence[Shape]) -> Any:
    """The exported network in ATen's operations, named after its modules.

    Raises:
        ExportError: torch is too old, or coremltools would make something else, or something
            larger, of it.
    """
    version = re.match(r'(\d+)\.(\d+)', torch.__version__)
    if version is None or tuple(map(int, version.groups())) < _FIRST_TORCH:
        raise ExportError(f'exports need torch {_FIRST_TORCH[0]}.{_FIRST_TORCH[1]} or later')
    program = exported(graph, shapes)
    before = _parts(program)
    with quiet.exporting():
        program = program.run_decompositions({})
    if _parts(program) > before:
        raise ExportError('what it does in place on a part of a tensor is more work when exported')
    _check_keywords(program)
    if len(shapes) > 1:
        check_shapes(graph, program.module(), shapes)
    name_by_module(program)
    return program


def _calls(program: Any) -> list[Any]:
    return [node for node in program.graph.nodes if node.op == 'call_function']


def _parts(program: Any) -> int:
    return sum(kind_of(node) in _PARTS for node in _calls(program))


def _check_keywords(program: Any) -> None:
    for node in _calls(program):
        for name in sorted(node.kwargs.keys() - _KEYWORDS):
            raise ExportError(f'coremltools does not read {name!r} of an exported {kind_of(node)}')


def kind_of(node: Any) -> str:
    """'conv2d' of ``aten.conv2d.default``."""
    parts = str(node.target).split('.')
    return parts[1] if parts[0] == 'aten' else parts[0]


def name_by_module(program: Any) -> None:
    """Name the operations of an exported program 'stage1_0_act', as converters then name theirs."""
    outputs = {spec.arg.name for spec in program.graph_signature.output_specs}
    named = [node for node in _calls(program) if node.name not in outputs]
    taken = {node.name for node in program.graph.nodes} - {node.name for node in named}
    for node in named:
        wanted = name = _module_name(node)
        number = 0
        while name in taken:
            number += 1
            name = f'{wanted}_{number}'
        taken.add(name)
        node.name = name


def _module_name(node: Any) -> str:
    """Of the innermost module, with the operation unless it is a layer of torch."""
    stack = list((node.meta.get('nn_module_stack') or {}).values())
    path, module = stack[-1] if stack else ('', '')
    # The network is a part of the module that is exported.
    parts = [part for part in path.split('.')[1:] if part not in _HOLDERS]
    if not parts or not str(module).startswith(_LAYER):
        parts.append(kind_of(node).strip('_'))
    return re.sub(r'\W', '_', '_'.join(parts))


def traced(graph: nn.Module, shapes: Sequence[Shape]) -> Any:
    """The ``ScriptModule`` of a network.

    Raises:
        ExportError: as :func:`check_shapes`.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # The file is compared with the network on images: a trace that is wrong for this size fails
        # there, and not by a warning.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        made = torch.jit.trace(graph, torch.zeros(shapes[0]), check_trace=False)
        check_shapes(graph, made, shapes)
    return made


def check_shapes(
    graph: Callable[[Tensor], Any], made: Callable[[Tensor], Any], shapes: Sequence[Shape]
) -> None:
    """Run a network, and what was traced or exported of it, at every size and every batch size.

    A trace is made at the first shape, and Python numbers in the network's code stay in it as they
    were then.

    Raises:
        ExportError: the network, or what was made of it, is for the first shape only.
    """
    generator = torch.Generator().manual_seed(0)
    for shape in _others(shapes):
        pixels = 255 * torch.rand(shape, generator=generator)
        wanted = _run(graph, pixels, 'the network does not run on')
        fixed = f'the network fixes its input to {shapes[0]} and fails on'
        found = _run(made, pixels, fixed)
        try:
            worst(wanted, found).require(_SAME, 'its graph')
        except ParityError as error:
            raise ExportError(f'{fixed} {shape} (N, C, H, W): {error}') from None


def _others(shapes: Sequence[Shape]) -> Iterator[Shape]:
    """One batch of each size and one size of each batch: no product."""
    first = shapes[0]
    for shape in shapes[1:]:
        if shape[0] == first[0] or shape[2:] == first[2:]:
            yield shape


def _run(network: Callable[[Tensor], Any], pixels: Tensor, what: str) -> Any:
    try:
        with torch.no_grad():
            return network(pixels)
    # Any network runs here.
    except Exception as error:
        raise ExportError(
            f'{what} {tuple(pixels.shape)} (N, C, H, W): {one_line(error)}'
        ) from error
