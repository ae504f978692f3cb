"""Run every form on the same images and compare what they say."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from PIL import Image
from torch import Tensor

from ..errors import MobileOneExtError, ProgramError
from ..export.data import Images
from ..utils.accuracy import Answers, Confusion, confusion, loss_between
from ..utils.parity import TOLERANCES, Parity, compare
from ..utils.text import Steps, interval_of
from .data import Disagreement, Drift, FormRow, Guess, Mistake, ParityCheck
from .forms import Feed, Form, Predict, opened
from .layers import WeightRange, measure_drift, weight_ranges

_TOP = 5
#: Drift is measured on a few images, in the first files.
_IMAGES, _FILES = 32, 3


@dataclass(frozen=True)
class Scores:
    """What every form said about every image.

    Attributes:
        probabilities: form name to (N, classes), in the order of the forms; the first one is the
            reference.
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
        return Answers(found[self.reference].argmax(1), found[name].argmax(1), self.labels)

    def parity(self, name: str) -> Parity:
        """Of a form's probabilities against the reference's."""
        found = self.probabilities
        return compare(found[self.reference], found[name], classes=True)


def score(forms: Sequence[Form], images: Images, advance: Callable[[int], Any]) -> Scores:
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
            raise MobileOneExtError(
                f'no form gives class probabilities{reasons and ": " + reasons}'
            )
        labels.append(truth)
        advance(len(pixels))
    known = [t for t in labels if t is not None]
    return Scores(
        {name: torch.cat(parts[name]) for name in running},
        torch.cat(known) if len(known) == len(labels) else None,
        failures,
    )


def _run(
    running: dict[str, Predict], pixels: Tensor, failures: dict[str, str]
) -> Iterable[tuple[str, Tensor]]:
    """Probabilities by form; a form that fails is taken out."""
    for name in list(running):
        try:
            yield name, running[name](pixels)
        except ProgramError as error:
            failures[name] = str(error)
            del running[name]


def scored_rows(forms: Sequence[Form], scores: Scores, baseline: str = '') -> list[FormRow]:
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
        return replace(row, note='; '.join(filter(None, (row.note, f'not scored: {reason}'))))
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
        psnr_db=None if is_reference else parity.psnr_db,
    )


def _hits(found: Tensor, labels: Optional[Tensor], count: int) -> Optional[float]:
    """Percent of images with the right label among the first ``count``."""
    if labels is None or (count > 1 and found.shape[1] <= count):
        return None
    best = found.argmax(1, keepdim=True) if count == 1 else found.topk(count, 1).indices
    right = (best == labels[:, None]).any(1)
    return 100 * float(right.double().mean())


def parity_checks(forms: Sequence[Form], scores: Scores) -> list[ParityCheck]:
    """Every bound that applies to a form, met or not."""
    checks = []
    for form in forms:
        name = form.row.form
        if not form.tolerance or name not in scores.probabilities or name == scores.reference:
            continue
        tolerance, parity = TOLERANCES[form.tolerance], scores.parity(name)
        bound = f'relative error ≤ {tolerance.max_relative:g}'
        if tolerance.min_agreement is not None:
            bound += f', same top-1 ≥ {100 * tolerance.min_agreement:g} %'
        found = f'{parity.relative:.2e}, {100 * (parity.top1_agreement or 0):.2f} %'
        met = parity.failure(tolerance) is None
        checks.append(ParityCheck(name, tolerance.name, bound, found, met))
    return checks


def disagreements(
    scores: Scores,
    rows: Sequence[FormRow],
    images: Images,
    names: Sequence[str],
    data_order: Optional[str],
    most: int,
) -> tuple[list[Disagreement], int]:
    """The most telling images that differ, and how many there are.

    A form that differs on nearly every image says nothing about one of them: each form that differs
    counts -log of the share of images on which it does, and images with the largest sums come
    first.

    Args:
        scores: of ``images``.
        rows: the forms; checks are left out.
        images: as scored.
        names: class names; a class without one is shown by its number.
        data_order: 'RGB' or 'BGR', of the pixels; None counts as RGB.
        most: how many are shown.
    """
    forms = [r for r in rows if r.kind != 'check' and r.form in scores.probabilities]
    labels = torch.stack([scores.probabilities[r.form].argmax(1) for r in forms])
    odd = labels != labels[0]
    share = odd.double().mean(1, keepdim=True).clamp_min(1e-12)
    weight = (odd * -share.log()).sum(0)
    differs = odd.any(0)
    # A form that differs everywhere has weight 0, and still differs.
    order = torch.where(differs, weight, -1.0).argsort(descending=True, stable=True)
    chosen = order[: min(most, int(differs.sum()))].tolist()
    found = [
        Disagreement(
            index=images.indices[place] if images.split else place,
            truth=None if scores.labels is None else _name(names, int(scores.labels[place])),
            guesses=_guesses(scores, forms, place, names),
            png=_png(pixels, data_order),
        )
        for place, pixels in zip(chosen, _shown_pixels(images, chosen))
    ]
    return found, int(differs.sum())


def worst_mistakes(
    scores: Scores,
    form: str,
    images: Images,
    names: Sequence[str],
    data_order: Optional[str],
    most: int,
) -> list[Mistake]:
    """The images with a wrong label, those first that a form is surest of.

    Args:
        scores: of ``images``.
        form: whose mistakes they are.
        images: as scored.
        names: class names; a class without one is shown by its number.
        data_order: 'RGB' or 'BGR', of the pixels; None counts as RGB.
        most: how many are returned; none without labels.
    """
    if scores.labels is None:
        return []
    found = scores.probabilities[form]
    sure, said = found.max(1)
    order = torch.where(said != scores.labels, sure, -1.0).argsort(descending=True, stable=True)
    count = min(most, int((said != scores.labels).sum()))
    chosen = order[:count].tolist()
    return [
        Mistake(
            index=index,
            file=images.file_name(index),
            truth=_name(names, int(scores.labels[place])),
            label=_name(names, int(said[place])),
            probability=100 * float(sure[place]),
            truth_probability=100 * float(found[place, int(scores.labels[place])]),
            png=_png(pixels, data_order),
        )
        for place, pixels in zip(chosen, _shown_pixels(images, chosen))
        for index in [images.indices[place] if images.split else place]
    ]


def confusion_of(scores: Scores, form: str, names: Sequence[str]) -> Optional[Confusion]:
    """What a form says of the images of each class; None without labels."""
    if scores.labels is None:
        return None
    return confusion(scores.labels, scores.probabilities[form].argmax(1), names)


def _shown_pixels(images: Images, places: Sequence[int]) -> Iterator[Tensor]:
    """(C, H, W) of the images at ``places``, in that order."""
    if images.split:
        images = replace(images, indices=tuple(images.indices[p] for p in places))
        places = range(len(places))
    all_images = torch.cat([pixels for pixels, _ in images.chunks()]) if places else torch.empty(0)
    return (all_images[p] for p in places)


def _guesses(
    scores: Scores, forms: Sequence[FormRow], place: int, names: Sequence[str]
) -> tuple[Guess, ...]:
    expected = int(scores.probabilities[forms[0].form][place].argmax())
    truth = None if scores.labels is None else int(scores.labels[place])

    def guess(row: FormRow) -> Guess:
        found = scores.probabilities[row.form][place]
        label = int(found.argmax())
        return Guess(
            form=row.form,
            short=row.short,
            label=_name(names, label),
            probability=100 * float(found[label]),
            right=None if truth is None else label == truth,
            differs=label != expected,
        )

    return tuple(guess(row) for row in forms)


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _png(pixels: Tensor, data_order: Optional[str]) -> bytes:
    planes = pixels.flip(0) if data_order == 'BGR' else pixels
    if planes.shape[0] not in (1, 3):
        planes = planes[:1]  # no picture; the first channel stands for it
    array = planes.permute(1, 2, 0).squeeze(-1).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, 'PNG')
    return stream.getvalue()


def drifts(forms: Sequence[Form], images: Images, feed: Feed, steps: Steps) -> tuple[Drift, ...]:
    """Of the first files that compute in fp16 with weights as trained.

    Args:
        forms: those that could be scored.
        images: as scored; a few of them, spread over all, are used.
        feed: makes the files' inputs.
        steps: where progress is shown.
    """
    found = []
    count = min(_IMAGES, len(images))
    halves = [(f, p) for f in forms if f.tolerance == 'export-fp16' and (p := opened(f))]
    for form, program in halves[:_FILES]:
        with steps.step(f'drift of {form.row.file}', total=count) as advance:
            rows = measure_drift(
                program,
                (feed.inputs(program, pixels) for pixels in _pixels(images, count)),
                advance,
            )
        found.append(Drift(form.row.form, count, rows))
    return tuple(found)


def _pixels(images: Images, count: int) -> Iterator[Tensor]:
    """``count`` of the images, spread over all."""
    total = len(images)
    if images.indices:
        images = replace(
            images, indices=tuple(images.indices[i * total // count] for i in range(count))
        )
    for pixels, _ in images.chunks():
        yield pixels[:count]
        count -= len(pixels[:count])


def ranges(forms: Sequence[Form]) -> tuple[WeightRange, ...]:
    """Of the first file whose weights are not compressed, hardest first."""
    dense = [p for f in forms if f.tolerance and (p := opened(f))]
    # A thousand channels are no reading matter: the ratio stands for them.
    return tuple(replace(r, channel_max=()) for r in (weight_ranges(dense[0]) if dense else ()))
