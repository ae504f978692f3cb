"""Batches of samples for programs that take one, or several, at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ProgramError
from .graph import Feature


class Samples(NamedTuple):
    """A batch of one input, and how the program can take it.

    Attributes:
        rows: (N, ...), the first dimension counts samples.
        alone: shape in which the program takes a single sample.
        together: numbers of samples, 2 or more, that the program takes as
            one (n, ...) input.
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
        value (Tensor): (N, *shape) with a whole input for each sample, or
            (N, *shape[1:]) for an input whose first dimension counts them.
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
    unit = (1, *sample)
    if not feature.allows(unit):
        raise ProgramError(
            f'input {feature.name!r} is a batch of shape '
            f'{tuple(value.shape)}; the model takes {feature.allowed}'
        )
    return Samples(value, unit, _together(feature, sample, len(value)))


def _together(
    feature: Feature, sample: tuple[int, ...], count: int
) -> frozenset[int]:
    sizes: Collection[int] = {shape[0] for shape in feature.shapes}
    if feature.ranges:
        sizes = range(2, count + 1)
    return frozenset(
        n for n in sizes if n > 1 and feature.allows((n, *sample))
    )


def chunks(batch: Mapping[str, Samples], limit: int) -> Iterator[Chunk]:
    """Divide a batch into what the program takes at a time.

    Samples go in as one input as long as the program takes so many, the
    most first; the rest goes in alone, ``limit`` at a time.

    Args:
        batch (Mapping[str, Samples]): Input name to samples.
        limit (int): Most samples of a chunk.

    Raises:
        ProgramError: If the numbers of samples differ or are 0.
    """
    count, start = _count(batch), 0
    together = frozenset.intersection(*(s.together for s in batch.values()))
    while start < count:
        left = min(limit, count - start)
        fits = [n for n in together if n <= left]
        stop = start + max(fits, default=left)
        yield Chunk(start, stop, bool(fits))
        start = stop


def _count(batch: Mapping[str, Samples]) -> int:
    """N, the same and at least 1 for every input."""
    counts = {name: len(item.rows) for name, item in batch.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ProgramError(
            f'batch sizes are {counts}; they must be equal and at least 1'
        )
    return next(iter(counts.values()))


def rows_of(batch: Mapping[str, Samples], chunk: Chunk) -> dict[str, Tensor]:
    """Inputs (n, ...) of a chunk; alone each row is a whole input."""
    found = {}
    for name, item in batch.items():
        rows = item.rows[chunk.start : chunk.stop]
        found[name] = (
            rows if chunk.as_one else rows.reshape(len(rows), *item.alone)
        )
    return found


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Outputs of samples that were run alone, as (n, ...)."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def drop_unit(value: Tensor) -> Tensor:
    """(N, 1, ...) of a batch-1 program to (N, ...)."""
    is_unit = value.dim() > 2 and value.shape[1] == 1
    return value.squeeze(1) if is_unit else value


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
