"""Compare the saved file with the network it was made from, on images."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from ..errors import ParityError
from ..parity import TOLERANCES, Parity, Tolerance, compare
from .convert import INPUT, PROBABILITIES
from .export_data import Images
from .preprocess import Preprocessing
from .runtime import load_program


@dataclass(frozen=True)
class Verification:
    """What the comparison found.

    Attributes:
        parity: of the probabilities.
        tolerance: name of the bound that was met.
        images: what was compared, in words.
        top1_reference, top1_candidate: share of correct labels, 0 to 1, of
            the network and of the file; None without labels.
        overflows: operation to count of values beyond fp16.
        operations: operation type to count, in the file.
        spec_version: Core ML specification version of the file.
    """
    parity: Parity
    tolerance: str
    images: str
    top1_reference: Optional[float]
    top1_candidate: Optional[float]
    overflows: dict[str, int]
    operations: dict[str, int]
    spec_version: int


def verify(model: nn.Module, pre: Preprocessing, images: Images, path: Path,
           precision: str, advance: Callable[[int], Any]) -> Verification:
    """Execute the file at ``path`` and compare it with ``model``.

    The network sees images through its own ``data_preprocessor``, the file
    the pixels a phone would give it.

    Args:
        model: as loaded, in eval mode.
        precision: 'fp16' or 'fp32', arithmetic of the file.
        advance: told the number of images done.

    Raises:
        ParityError: states the figures and operations that overflow.
        ProgramError: the file uses an operation that cannot be executed.
    """
    loaded = load_program(path, arithmetic=precision)
    wanted, found, labels = [], [], []
    for batch, truth in images.chunks():
        wanted.append(_reference(model, batch))
        pixels = batch.flip(1) if pre.flips else batch
        scores = loaded.predict_batch({INPUT: pixels.float()})
        found.append(scores[PROBABILITIES])
        labels.append(truth)
        advance(len(batch))
    reference, candidate = torch.cat(wanted), torch.cat(found)
    tolerance = TOLERANCES[f'export-{precision}']
    parity = compare(reference, candidate, classes=True)
    if parity.failure(tolerance) is not None:
        _raise(parity, tolerance, loaded.overflows)
    return Verification(
        parity=parity,
        tolerance=tolerance.name,
        images=images.origin,
        top1_reference=_top1(reference, labels),
        top1_candidate=_top1(candidate, labels),
        overflows=dict(loaded.overflows),
        operations=loaded.program.count_operations(),
        spec_version=loaded.program.spec_version)


def _raise(parity: Parity, tolerance: Tolerance,
           overflows: dict[str, int]) -> None:
    what = 'nothing is written, the program differs from the network'
    try:
        parity.require(tolerance, what)
    except ParityError as error:
        if not overflows:
            raise
        names = ', '.join(f'{k} ({n})' for k, n in overflows.items())
        raise ParityError(f'{error}; values beyond fp16 in {names}; try '
                          'precision fp32') from None


@torch.no_grad()
def _reference(model: Any, batch: Tensor) -> Tensor:
    """Probabilities (N, K) by the model's own pre- and post-processing."""
    data = model.data_preprocessor({'inputs': batch}, False)
    samples = model(data['inputs'], mode='predict')
    return torch.stack([sample.pred_score for sample in samples])


def _top1(scores: Tensor, labels: list[Optional[Tensor]]) -> Optional[float]:
    known = [batch for batch in labels if batch is not None]
    if len(known) != len(labels):
        return None
    return float((scores.argmax(1) == torch.cat(known)).double().mean())
