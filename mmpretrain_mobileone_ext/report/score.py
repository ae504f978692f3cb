"""Run every form on the same images and compare what they say."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import Tensor

from ..accuracy import Answers, loss_between
from ..coreml.export_data import Images
from ..errors import MobileOneExtError, ProgramError
from ..figures import interval_of
from ..parity import TOLERANCES, Parity, Tolerance, compare
from .data import FormRow, ParityCheck
from .forms_of import Form, Predict

_TOP = 5


@dataclass(frozen=True)
class Scores:
    """What every form said about every image.

    Attributes:
        probabilities: form name to (N, classes), in the order of the forms;
            the first one is the reference.
        labels: (N,) or None where some image has none.
        failures: form name to why it could not be run.
    """
    probabilities: dict[str, Tensor]
    labels: Optional[Tensor]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Name of the form that the others are compared with."""
        return next(iter(self.probabilities))

    def answers(self, name: str) -> Answers:
        """First class of every image, by a form."""
        found = self.probabilities
        return Answers(found[self.reference].argmax(1),
                       found[name].argmax(1), self.labels)

    def parity(self, name: str) -> Parity:
        """Of a form's probabilities against the reference's."""
        found = self.probabilities
        return compare(found[self.reference], found[name], classes=True)


def score(forms: Sequence[Form], images: Images,
          advance: Callable[[int], Any]) -> Scores:
    """Run forms side by side; images are read once.

    Args:
        forms: the first that runs is the reference.
        images: what to run on.
        advance: told the number of images done.

    Raises:
        MobileOneExtError: no form gives class probabilities.
    """
    running = {f.row.form: f.predict for f in forms if f.predict is not None}
    parts: dict[str, list[Tensor]] = {name: [] for name in running}
    labels: list[Optional[Tensor]] = []
    failures: dict[str, str] = {}
    for pixels, truth in images.chunks():
        for name, found in _run(running, pixels, failures):
            parts[name].append(found)
        if not running:
            reasons = '; '.join(f'{k}: {v}' for k, v in failures.items())
            raise MobileOneExtError('no form gives class probabilities'
                                    f'{reasons and ": " + reasons}')
        labels.append(truth)
        advance(len(pixels))
    known = [t for t in labels if t is not None]
    return Scores({name: torch.cat(parts[name]) for name in running},
                  torch.cat(known) if len(known) == len(labels) else None,
                  failures)


def _run(running: dict[str, Predict], pixels: Tensor,
         failures: dict[str, str]) -> Iterable[tuple[str, Tensor]]:
    """Probabilities by form; a form that fails is taken out."""
    for name in list(running):
        try:
            yield name, running[name](pixels)
        except ProgramError as error:
            failures[name] = str(error)
            del running[name]


def scored_rows(forms: Sequence[Form], scores: Scores,
                baseline: str = '') -> list[FormRow]:
    """The rows with what was measured.

    Args:
        baseline: form that images are lost against; '': the reference.
    """
    return [_row(f.row, scores, baseline or scores.reference) for f in forms]


def _row(row: FormRow, scores: Scores, baseline: str) -> FormRow:
    found = scores.probabilities.get(row.form)
    if found is None:
        if row.note.startswith('not scored'):
            return row
        reason = scores.failures.get(row.form, 'no class probabilities')
        return replace(row, note='; '.join(filter(None, (
            row.note, f'not scored: {reason}'))))
    parity = scores.parity(row.form)
    is_reference = row.form == scores.reference
    top1 = _hits(found, scores.labels, 1)
    low, high = interval_of(top1, len(found)) or (None, None)
    loss = loss_between(scores.answers(baseline), scores.answers(row.form))
    return replace(
        row,
        top1=top1,
        top1_low=low,
        top1_high=high,
        lost=loss.lost,
        gained=loss.gained,
        top5=_hits(found, scores.labels, _TOP),
        agreement=100 * (parity.top1_agreement or 0.0),
        psnr_db=None if is_reference else parity.psnr_db)


def _hits(found: Tensor, labels: Optional[Tensor],
          count: int) -> Optional[float]:
    """Percent of images with the right label among the first ``count``."""
    if labels is None or (count > 1 and found.shape[1] <= count):
        return None
    best = found.argmax(1, keepdim=True) if count == 1 else \
        found.topk(count, 1).indices
    right = (best == labels[:, None]).any(1)
    return 100 * float(right.double().mean())


def parity_checks(forms: Sequence[Form],
                  scores: Scores) -> list[ParityCheck]:
    """Every bound that applies to a form, met or not."""
    return [
        _check(f.row.form, TOLERANCES[f.tolerance], scores) for f in forms
        if f.tolerance and f.row.form in scores.probabilities
        and f.row.form != scores.reference
    ]


def _check(name: str, tolerance: Tolerance, scores: Scores) -> ParityCheck:
    parity = scores.parity(name)
    bound = f'relative error ≤ {tolerance.max_relative:g}'
    if tolerance.min_agreement is not None:
        bound += f', same top-1 ≥ {100 * tolerance.min_agreement:g} %'
    return ParityCheck(
        form=name,
        tolerance=tolerance.name,
        bound=bound,
        found=f'{parity.relative:.2e}, '
        f'{100 * (parity.top1_agreement or 0):.2f} %',
        met=parity.failure(tolerance) is None)
