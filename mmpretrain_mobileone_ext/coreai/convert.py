"""Convert a network to an ``.aimodel``: export, cast, convert, save."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..coreml import front_end
from ..coreml.convert import INPUT, PROBABILITIES
from ..errors import ExportError
from ..models.preprocessing import Preprocessing
from ..utils.text import one_line
from .extra import converter
from .precision import AsModule, normalizing
from .trained import with_roundings


def convert_and_save(
    network: Any,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    options: Any,
    path: Path,
    keep_fp32: frozenset[str] = frozenset(),
) -> None:
    """Convert a network and save it to ``path``, as ``Format.convert``.

    The input is ``image``, float32 (1, C, H, W), pixels 0 to 255 in the network's channel order. A
    classifier outputs ``classLabel_probs``, float32 (1, classes), a backbone float32 maps
    (1, C, H, W) under ``network.features``.

    Args:
        network: an ``export.network.Prepared``.
        preprocessing: what is baked in.
        labels: unused: they are metadata.
        options: an ``export.options.ExportOptions``.
        path: of the folder to make.
        keep_fp32: operations that stay in fp32, by their names in :func:`exported`'s graph.

    Raises:
        ExportError: the network cannot be exported or converted.
    """
    shapes = options.input_shapes(preprocessing)
    if len(shapes) > 1:
        raise ExportError(f'{path.name}: an .aimodel takes one input shape; given {shapes}')
    core_ai = converter()
    program = exported(network, preprocessing)
    if options.precision != 'fp32':
        graph = program.module()
        keep = keep_fp32 | normalizing(graph.graph)
        program = front_end.exported(AsModule(graph, keep), shapes)
        program = program.run_decompositions(core_ai.get_decomp_table())
    try:
        with _quiet():
            made = core_ai.TorchConverter(mode=core_ai.TorchConverter.Mode.RELEASE)
            made.add_exported_program(
                program,
                input_names=[INPUT],
                output_names=list(network.features or (PROBABILITIES,)),
            )
            made.to_coreai().save_asset(path)
    # Whatever operation is not supported, the converter has its own error for it.
    except Exception as error:
        raise ExportError(
            f'coreai-torch cannot convert the network ({one_line(error, 500)})'
        ) from error


def exported(network: Any, preprocessing: Preprocessing) -> Any:
    """The network as ``torch.export`` has it, decomposed, in float32; made once.

    Operations are named after their modules. Linear layers on vectors are 1x1 convolutions: Core AI
    sums these in more than fp16.
    """

    def make() -> Any:
        graph = network.graph(preprocessing.mean)
        graph.net = _as_convolutions(with_roundings(copy.deepcopy(graph.net)))
        program = front_end.exported(graph, [preprocessing.shape])
        program = program.run_decompositions(converter().get_decomp_table())
        front_end.name_by_module(program)
        return program

    return network.once((exported, preprocessing.mean, preprocessing.shape), make)


class _PointConv(nn.Module):
    """A linear layer on (N, C) as a 1x1 convolution, on all else as it is."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """As of the linear layer."""
        if x.dim() != 2:
            return self.linear(x)
        weight = self.linear.weight[:, :, None, None]
        return nn.functional.conv2d(x[:, :, None, None], weight, self.linear.bias).flatten(1)


def _as_convolutions(net: nn.Module) -> nn.Module:
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _PointConv(child))
    return net


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's line of progress."""
    nowhere = io.StringIO()
    with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield
