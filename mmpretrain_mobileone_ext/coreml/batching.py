"""Batches of samples for programs that were built for one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import ProgramError
from .graph import Feature


def batched(value: Tensor, feature: Feature) -> Tensor:
    """Check (N, ...) and give every sample the program's own shape."""
    if not isinstance(value, Tensor):
        raise ProgramError(
            f'input {feature.name!r} is a {type(value).__name__}; a batch '
            f'must be a torch tensor (N, ...)'
        )
    sample, shape = tuple(value.shape[1:]), feature.shape
    if sample == shape:
        return value
    if shape[:1] == (1,) and sample == shape[1:]:
        return value.unsqueeze(1)
    raise ProgramError(
        f'input {feature.name!r} is a batch of shape {tuple(value.shape)}; '
        f'the model takes samples of shape {shape}'
    )


def check_count(batch: Mapping[str, Tensor]) -> int:
    """Return N, the same and at least 1 for every input."""
    counts = {name: value.shape[0] for name, value in batch.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ProgramError(
            f'batch sizes are {counts}; they must be equal and at least 1'
        )
    return next(iter(counts.values()))


def drop_unit(value: Tensor) -> Tensor:
    """(N, 1, ...) of a batch-1 program to (N, ...)."""
    is_unit = value.dim() > 2 and value.shape[1] == 1
    return value.squeeze(1) if is_unit else value
