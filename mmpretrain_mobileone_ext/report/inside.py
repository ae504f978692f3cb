"""What happens inside Core ML files: drift of values, ranges of weights."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from ..coreml.drift import measure_drift
from ..coreml.export_data import Images
from ..coreml.weight_ranges import WeightRange, range_of
from ..coreml.weights import find_weights
from ..progress import Steps
from .data import Drift
from .forms_of import Feed, Form

_IMAGES = 32
_FILES = 3


def drifts(forms: Sequence[Form], images: Images, feed: Feed,
           steps: Steps) -> tuple[Drift, ...]:
    """Of the first files that compute in fp16 with weights as trained.

    Args:
        forms: those that could be scored.
        images: as scored; a few of them, spread over all, are used.
        feed: makes the files' inputs.
        steps: where progress is shown.
    """
    found = []
    count = min(_IMAGES, len(images))
    halves = [f for f in forms if f.tolerance == 'export-fp16']
    for form in halves[:_FILES]:
        program = form.program
        assert program is not None
        with steps.step(f'drift of {form.row.file}', total=count) as advance:
            rows = measure_drift(
                program, (feed.inputs(program, pixels)
                          for pixels in _pixels(images, count)), advance)
        found.append(Drift(form.row.form, count, rows))
    return tuple(found)


def _pixels(images: Images, count: int) -> Iterator[Tensor]:
    """``count`` of the images, spread over all."""
    total = len(images)
    if images.indices:
        images = replace(images, indices=tuple(
            images.indices[i * total // count] for i in range(count)))
    for pixels, _ in images.chunks():
        yield pixels[:count]
        count -= len(pixels[:count])


def ranges(forms: Sequence[Form]) -> tuple[WeightRange, ...]:
    """Of the first file whose weights are not compressed, hardest first."""
    dense = [f.program for f in forms if f.tolerance and f.program]
    found = [range_of(w) for w in find_weights(dense[0])] if dense else []
    # A thousand channels are no reading matter: the ratio stands for them.
    return tuple(sorted((replace(r, channel_max=()) for r in found),
                        key=lambda r: (r.sqnr_tensor_db, r.layer)))
