"""A loaded program, whatever computes it, and how batches are divided for it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from ...errors import ProgramError
from ..program.graph import Feature, Program


class Samples(NamedTuple):
    """A batch of one input, and how the program can take it.

    Attributes:
        rows: (N, ...), the first dimension counts samples.
        alone: shape in which the program takes a single sample.
        together: numbers of samples, 2 or more, that the program takes as one (n, ...) input.
    """

    rows: Tensor
    alone: tuple[int, ...]
    together: frozenset[int]


class Chunk(NamedTuple):
    """Samples ``start`` to ``stop`` of a batch, run as one input or not."""

    start: int
    stop: int
    as_one: bool


def samples(value: Tensor, feature: Feature) -> Samples:
    """Find how the program takes the samples of (N, ...).

    Args:
        value (Tensor): (N, *shape) with a whole input for each sample, or (N, *shape[1:]) for an
            input whose first dimension counts them.
        feature (Feature): The input.

    Raises:
        ProgramError: If it takes no samples of this shape.
    """
    if not isinstance(value, Tensor):
        raise ProgramError(
            f'input {feature.name!r} is a {type(value).__name__}; a batch '
            f'must be a torch tensor (N, ...)'
        )
    sample = tuple(value.shape[1:])
    if feature.allows(sample):
        return Samples(value, sample, frozenset())
    if not feature.allows((1, *sample)):
        raise ProgramError(
            f'input {feature.name!r} is a batch of shape '
            f'{tuple(value.shape)}; the model takes {feature.allowed}'
        )
    sizes = range(len(value) + 1) if feature.ranges else [shape[0] for shape in feature.shapes]
    together = frozenset(n for n in sizes if n > 1 and feature.allows((n, *sample)))
    return Samples(value, (1, *sample), together)


def chunks(batch: Mapping[str, Samples], limit: int) -> Iterator[Chunk]:
    """Divide a batch into what the program takes at a time.

    Samples go in as one input as long as the program takes so many, the most first; the rest goes
    in alone, ``limit`` at a time.

    Args:
        batch (Mapping[str, Samples]): Input name to samples.
        limit (int): Most samples of a chunk.

    Raises:
        ProgramError: If the numbers of samples differ or are 0.
    """
    counts = {name: len(item.rows) for name, item in batch.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ProgramError(f'batch sizes are {counts}; they must be equal and at least 1')
    count, start = next(iter(counts.values())), 0
    together = frozenset.intersection(*(s.together for s in batch.values()))
    while start < count:
        left = min(limit, count - start)
        fits = [n for n in together if n <= left]
        stop = start + max(fits, default=left)
        yield Chunk(start, stop, bool(fits))
        start = stop


def check_outputs(outputs: Mapping[str, Tensor], count: int) -> None:
    """Check that outputs of ``count`` samples run as one are (count, ...).

    Raises:
        ProgramError: If an output is not; samples cannot be told apart.
    """
    for name, value in outputs.items():
        if value.dim() == 0 or value.shape[0] != count:
            raise ProgramError(
                f'output {name!r} has shape {tuple(value.shape)} for a batch '
                f'of {count}; its first dimension must count the samples'
            )


class LoadedProgram(ABC):
    """A Core ML model ready to predict.

    Attributes:
        program (Program): What was read from disk.
        overflows (dict[str, int]): Operation name to the number of values that became infinite in
            it, summed since loading or ``reset()``; only operations that overflowed. Empty in
            ``'fp32'``.
        ranges (dict[str, float]): Operation name to the largest ``|value|`` of its results so far,
            if asked for; in ``'ane'`` infinite where a sum of products ends.
        arithmetic (str): What it is computed in: ``'fp32'``, ``'fp16'``, ``'ane'``, or the name of
            Apple's runtime that decides; a ``.mlmodel``, of which ``'fp16'`` rounds nothing, is in
            ``'fp32'`` there.
        chip (str): Whose engine ``'ane'`` is that of; else empty.
    """

    arithmetic: str = ''
    chip: str = ''

    def __init__(self, program: Program) -> None:
        self.program = program
        self.overflows: dict[str, int] = {}
        self.ranges: dict[str, float] = {}
        if not program.inputs:
            raise ProgramError(f'{program.path} has no inputs')

    @property
    def input_name(self) -> str:
        """Name of the first input."""
        return self.program.inputs[0].name

    @property
    def image_size(self) -> Optional[tuple[int, int]]:
        """Default (H, W) of the first input, None if not (1, C, H, W)."""
        shape = self.program.inputs[0].shape
        return (shape[2], shape[3]) if len(shape) == 4 else None

    @property
    def color_layout(self) -> Optional[str]:
        """``'RGB'``, ``'BGR'``, ``'GRAYSCALE'``, ...; None for a tensor."""
        return self.program.inputs[0].color_layout

    @property
    def classes(self) -> Optional[tuple[Any, ...]]:
        """Class labels of a classifier, else None."""
        return self.program.classes

    def reset(self) -> None:
        """Forget recorded overflows and ranges."""
        self.overflows, self.ranges = {}, {}

    @abstractmethod
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run one input, as Core ML does.

        Args:
            inputs (Mapping[str, Any]): Input name to a value of an allowed shape
                (``Feature.shapes``). For an image: a PIL image (converted to the layout the model
                wants), a uint8 array (H, W, 3) in RGB order or (H, W), or a tensor (1, C, H, W)
                with values 0..255 in the model's own channel order. For a tensor: an array or
                tensor; several samples in one where such a shape is declared.

        Returns:
            dict[str, Any]: For a classifier the label and the label to probability dictionary,
            under the names the file declares (``classLabel`` and ``classLabel_probs`` unless
            renamed); NumPy arrays for other outputs.

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """

    @torch.no_grad()
    def predict_batch(
        self, inputs: Mapping[str, Tensor], chunk_size: int = 32
    ) -> dict[str, Tensor]:
        """Run N samples of one size, in the batches the program takes.

        A program that declares batches of several samples gets them whole, the largest first; the
        rest are run as single samples.

        Args:
            inputs (Mapping[str, Tensor]): Input name to (N, C, H, W), or ``(N, *shape)`` for other
                inputs. Images: values 0..255 in the model's own channel order.
            chunk_size (int): Most samples computed at a time; fewer where memory is bounded
                (``memory_budget``).

        Returns:
            dict[str, Tensor]: Output name to a tensor (N, ...), without the program's own batch
            dimension of 1. For a classifier: under the probabilities' name (N, num_classes), in the
            order of ``classes``; under the label's name the index of the predicted class, int64
            (N,).

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """
        self._check_names(inputs)
        if chunk_size < 1:
            raise ProgramError(f'chunk_size is {chunk_size}; allowed: >= 1')
        batch = {
            feature.name: samples(inputs[feature.name], feature) for feature in self.program.inputs
        }
        if self.program.classes is not None:
            # Classifiers of Core ML take one sample at a time.
            batch = {k: v._replace(together=frozenset()) for k, v in batch.items()}
        limit = min(chunk_size, self._most_at_once(batch))
        parts = [self._chunk(batch, chunk) for chunk in chunks(batch, limit)]
        return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}

    def _chunk(self, batch: Mapping[str, Samples], chunk: Chunk) -> dict[str, Tensor]:
        """Outputs (n, ...) of one chunk of a batch."""
        count = chunk.stop - chunk.start
        rows = {name: item.rows[chunk.start : chunk.stop] for name, item in batch.items()}
        if chunk.as_one:
            outputs = self._run_whole(rows)
            check_outputs(outputs, count)
            return outputs
        label = self.program.predicted_feature_name
        alone = {name: rows[name].reshape(count, *item.alone) for name, item in batch.items()}
        return {
            name: value if name == label else at_least_1d(_drop_unit(value), (count,))
            for name, value in self._run_each(alone).items()
        }

    def _most_at_once(self, batch: Mapping[str, Samples]) -> int:
        """Samples of a batch that memory suffices for; at least 1."""
        return sys.maxsize

    @abstractmethod
    def _run_whole(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the program on inputs of its own shapes."""

    def _run_each(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run it on each of n rows of whole inputs; outputs are (n, ...)."""
        count = len(next(iter(rows.values())))
        found = [self._run_whole({k: v[i] for k, v in rows.items()}) for i in range(count)]
        return {key: torch.stack([row[key] for row in found]) for key in found[0]}

    def _check_single(self, feature: Feature, shape: tuple[int, ...]) -> None:
        """Refuse what Core ML refuses: labels for several samples."""
        several = shape[:1] > (1,) and feature.allows((1, *shape[1:]))
        if several and self.program.classes is not None:
            raise ProgramError(
                f'{self.program.path} is a classifier, and classifiers of '
                f'Core ML take one sample at a time; given {shape}'
            )

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        wanted = [feature.name for feature in self.program.inputs]
        if not isinstance(inputs, Mapping) or set(inputs) != set(wanted):
            given = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ProgramError(
                f'inputs are {given}; the model takes a dictionary with {sorted(wanted)}'
            )


def _drop_unit(value: Tensor) -> Tensor:
    """(N, 1, ...) of a batch-1 program to (N, ...)."""
    is_unit = value.dim() > 2 and value.shape[1] == 1
    return value.squeeze(1) if is_unit else value


def at_least_1d(value: Tensor, samples: tuple[int, ...]) -> Tensor:
    """A scalar, of each sample, as (1,): Core ML has no array of rank 0."""
    return value[..., None] if value.shape == samples else value
