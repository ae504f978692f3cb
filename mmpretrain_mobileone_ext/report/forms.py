"""Forms of a network as functions from pixels to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..coreml.compress.scheme import WORDS
from ..coreml.convert import PROBABILITIES
from ..coreml.formats import format_of
from ..coreml.program.graph import Program, takes_normalized
from ..errors import ProgramError
from ..export.data import Images
from ..export.verify import classifier
from ..models import MobileOneBlock
from ..utils.files import tree_bytes
from .data import FormRow

#: Pixels (N, C, H, W), uint8 in data order, to probabilities (N, classes).
Predict = Callable[[Tensor], Tensor]

_WORDS = {**WORDS, 'constexpr_cast': ''}
#: Types in fp32 whatever a program's precision: at its end, and what normalizes the pixels at its
#: beginning.
_EDGES = ('cast', 'classify')
_NORMALIZING = (
    'add',
    'cast',
    'mul',
    'sub',
    'broadcasting_add',
    'broadcasting_mul',
    'broadcasting_sub',
)


@dataclass(frozen=True)
class Feed:
    """How pixels of a data set become what a Core ML file takes.

    Attributes:
        flips: whether its channel order is the reverse of the data's.
        mean, std: one a channel in the file's order, applied for files that leave it to the app;
            empty: nothing is.
    """

    flips: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def inputs(self, program: Program, pixels: Tensor) -> dict[str, Tensor]:
        """Input name to (N, C, H, W), fp32, of pixels in data order.

        Raises:
            ProgramError: a tensor, and the file does not say of what.
        """
        given = (pixels.flip(1) if self.flips else pixels).float()
        if takes_normalized(program) and self.mean:
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
            given = (given - mean) / std
        return {program.inputs[0].name: given}


@dataclass(frozen=True)
class Form:
    """A form that can be scored.

    Attributes:
        row: what is known of it without images.
        predict: None where it gives no class probabilities.
        tolerance: name of the bound on its probabilities, if one applies.
        program: of a Core ML file.
    """

    row: FormRow
    predict: Optional[Predict]
    tolerance: Optional[str] = None
    program: Optional[Program] = None


def torch_form(model: nn.Module, file: str, images: Images, note: str = '') -> Form:
    """A network as mmpretrain tests it, named by what its blocks are.

    Args:
        model: classifier in eval mode.
        file: it was loaded from.
        images: the shape of one is used to count operations.
    """
    blocks = [m for m in model.modules() if isinstance(m, MobileOneBlock)]
    folded = bool(blocks) and all(b.deploy for b in blocks)
    name = 'folded' if folded else 'branches' if blocks else 'network'
    network = classifier(model)
    predict: Predict = lambda pixels: network(pixels)[PROBABILITIES]  # noqa: E731
    row = FormRow(
        form=f'{name} (torch, fp32)',
        kind='torch',
        file=file,
        # The weights alone: a training file also holds an optimizer.
        size_bytes=sum(v.numel() * v.element_size() for v in model.state_dict().values()),
        ops=_aten_calls(predict, torch.zeros(images.shape, dtype=torch.uint8)),
        note=note,
    )
    return Form(row, predict, 'fold-float32' if folded else None)


def program_forms(path: Path, feed: Feed, note: str = '') -> list[Form]:
    """A Core ML file as a device computes it, and in fp32 where it differs.

    Args:
        path: of a known format.
        feed: makes its input.
        note: for the first row.

    Raises:
        ProgramError: it cannot be read, or has an operation that cannot be executed.
    """
    format = format_of(path)
    program = format.describe(path)
    precision, compression = precision_of(program), compression_of(program)
    name = ', '.join([f'{format.title} {precision}', *compression])
    row = FormRow(
        form=name,
        file=path.name,
        size_bytes=tree_bytes(path),
        ops=sum(program.count_operations().values()),
        note=note,
    )
    tolerance = None if compression else f'export-{"fp32" if precision == "fp32" else "fp16"}'
    forms = [Form(row, _predict(program, 'fp16', feed), tolerance, program)]
    if precision == 'fp32' or not format.opens:
        return forms
    check = replace(row, form=f'{name}, computed in fp32', kind='check', of=name, note='')
    return [*forms, Form(check, _predict(program, 'fp32', feed))]


def opened(form: Form) -> Optional[Program]:
    """The program of a file whose operations and weights can be read; else None."""
    program = form.program
    return program if program is not None and format_of(program.path).opens else None


def precision_of(program: Program) -> str:
    """'fp16', 'fp32' or 'mixed', by what the operations declare."""
    inner = dropwhile(lambda op: op.type in _NORMALIZING, program.operations)
    found = {d for op in inner if op.type not in _EDGES for d in op.dtypes if d in ('fp16', 'fp32')}
    return 'mixed' if len(found) > 1 else found.pop() if found else 'fp32'


def compression_of(program: Program) -> tuple[str, ...]:
    """How weights are stored: the exporter's word, else the operations'."""
    kinds = {
        kind for op in program.operations for kind in op.attributes.get('compressed', {}).values()
    }
    words = {_WORDS.get(kind, kind) for kind in kinds} - {''}
    stated = program.metadata.get('compression', 'none')
    return tuple([stated] if words and stated != 'none' else sorted(words))


def _predict(program: Program, arithmetic: str, feed: Feed) -> Optional[Predict]:
    """None unless the program gives the probabilities of classes."""
    name = program.predicted_probabilities_name
    if not name and len(program.outputs) == 1:
        name = program.outputs[0].name
    if not name or len(program.inputs) != 1:
        return None
    loaded = format_of(program.path).load(program.path, arithmetic=arithmetic)

    def predict(pixels: Tensor) -> Tensor:
        found = loaded.predict_batch(feed.inputs(program, pixels))
        return _checked(found[name], program)

    return predict


def _checked(scores: Tensor, program: Program) -> Tensor:
    fits = (
        scores.dim() == 2
        and bool((scores.nan_to_num() >= 0).all())
        and bool((scores.sum(1).nan_to_num(1) - 1).abs().max() < 0.01)
    )
    if not fits:
        raise ProgramError(f'{program.path.name}: its output is no class probabilities')
    return scores


class _Calls(TorchDispatchMode):
    """Counts ATen calls that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A view only says where values are.
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _aten_calls(predict: Predict, pixels: Tensor) -> int:
    with _Calls() as calls:
        predict(pixels)
    return calls.count
