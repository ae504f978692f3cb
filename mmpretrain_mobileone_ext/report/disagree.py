"""Images for which some form has another label than the reference."""
from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Optional

import torch
from PIL import Image
from torch import Tensor

from ..coreml.export_data import Images
from .data import Disagreement, FormRow, Guess
from .score import Scores


def disagreements(scores: Scores, rows: Sequence[FormRow], images: Images,
                  names: Sequence[str], data_order: Optional[str],
                  most: int) -> tuple[list[Disagreement], int]:
    """The most telling images that differ, and how many there are.

    A form that differs on nearly every image says nothing about one of them:
    each form that differs counts -log of the share of images on which it
    does, and images with the largest sums come first.

    Args:
        scores: of ``images``.
        rows: the forms; checks are left out.
        images: as scored.
        names: class names; a class without one is shown by its number.
        data_order: 'RGB' or 'BGR', of the pixels; None counts as RGB.
        most: how many are shown.
    """
    forms = [r for r in rows if r.kind != 'check'
             and r.form in scores.probabilities]
    labels = torch.stack(
        [scores.probabilities[r.form].argmax(1) for r in forms])
    odd = labels != labels[0]
    share = odd.double().mean(1, keepdim=True).clamp_min(1e-12)
    weight = (odd * -share.log()).sum(0)
    differs = odd.any(0)
    # A form that differs everywhere has weight 0, and still differs.
    order = torch.where(differs, weight, -1.0).argsort(
        descending=True, stable=True)
    chosen = order[:min(most, int(differs.sum()))].tolist()
    found = [
        Disagreement(
            index=images.indices[place] if images.split else place,
            truth=None if scores.labels is None else _name(
                names, int(scores.labels[place])),
            guesses=_guesses(scores, forms, place, names),
            png=_png(pixels, data_order))
        for place, pixels in zip(chosen, _pixels(images, chosen))
    ]
    return found, int(differs.sum())


def _pixels(images: Images, places: Sequence[int]) -> Iterator[Tensor]:
    """(C, H, W) of the images at ``places``, in that order."""
    if images.split:
        images = replace(
            images, indices=tuple(images.indices[p] for p in places))
        places = range(len(places))
    all_images = torch.cat([pixels for pixels, _ in images.chunks()]) \
        if places else torch.empty(0)
    return (all_images[p] for p in places)


def _guesses(scores: Scores, forms: Sequence[FormRow], place: int,
             names: Sequence[str]) -> tuple[Guess, ...]:
    expected = int(scores.probabilities[forms[0].form][place].argmax())
    truth = None if scores.labels is None else int(scores.labels[place])
    guesses = []
    for row in forms:
        found = scores.probabilities[row.form][place]
        label = int(found.argmax())
        guesses.append(Guess(
            form=row.form,
            short=row.short,
            label=_name(names, label),
            probability=100 * float(found[label]),
            right=None if truth is None else label == truth,
            differs=label != expected))
    return tuple(guesses)


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
