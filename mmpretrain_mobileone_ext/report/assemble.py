"""From a loaded network and Core ML files to all that a report shows."""
from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Optional

from torch import Tensor, nn

from ..benchmark.machine import machine
from ..coreml.drift import measure_drift
from ..coreml.export_data import Images, TestSplit
from ..coreml.metadata import in_words, versions
from ..errors import ProgramError
from ..progress import Steps
from .data import Drift, FormRow, Provenance, ReportData
from .disagree import disagreements
from .forms_of import Form, program_forms, torch_form
from .score import parity_checks, score, scored_rows

_SHOWN = 12  # images that differ
_DRIFT_IMAGES = 32
_DRIFT_FILES = 3


@dataclass(frozen=True)
class Network:
    """A torch form to report; ``note`` goes into its row."""
    model: nn.Module
    file: str = ''
    note: str = ''


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        title: of the page.
        networks: torch forms; the first is the reference.
        programs: (Core ML file, note), in the order of the table.
        split: where ``images`` come from.
        images: to score on.
        classes: names in the order of the logits.
        flips: whether the files' channel order reverses the data's.
        size: (H, W) that the files take.
        config, config_text: name and content.
        files: (name, SHA-256) of the checkpoints.
    """
    title: str
    networks: Sequence[Network]
    programs: Sequence[tuple[Path, str]]
    split: TestSplit
    images: Images
    classes: Sequence[str]
    flips: bool
    size: tuple[int, int]
    config: str = ''
    config_text: str = ''
    files: tuple[tuple[str, str], ...] = ()


def assemble(subject: Subject, steps: Steps,
             command: Optional[str] = None) -> ReportData:
    """Score every form on the same images and measure the drift.

    The caller adds what only it knows (candidates, operations kept in fp32,
    weight ranges, warnings) with ``dataclasses.replace``.

    Args:
        subject: what to score.
        steps: where progress is shown.
        command: as typed; None: this process's.

    Raises:
        MobileOneExtError: nothing could be scored.
        ExportError: an image cannot be read.
    """
    with steps.step('load forms'):
        forms = _forms(subject)
    with steps.step(f'score {len(forms)} forms',
                    total=len(subject.images)) as advance:
        scores = score(forms, subject.images, advance)
    rows = scored_rows(forms, scores)
    with steps.step('compare'):
        odd, count = disagreements(
            scores, rows, subject.images, subject.classes,
            subject.split.data_order, _SHOWN)
    return ReportData(
        title=subject.title,
        forms=rows,
        images=subject.images.origin,
        num_images=len(subject.images),
        reference=scores.reference,
        disagreements=odd,
        num_disagreements=count,
        drift=_drifts(subject, [f for f in forms if f.row.form in
                                scores.probabilities], steps),
        parity=parity_checks(forms, scores),
        provenance=_provenance(subject, forms, command))


def _forms(subject: Subject) -> list[Form]:
    forms = [torch_form(n.model, n.file, subject.images, n.note)
             for n in subject.networks]
    for path, note in subject.programs:
        try:
            forms += program_forms(path, subject.flips, note)
        except ProgramError as error:
            row = FormRow(form=f'Core ML, {path.name}', file=path.name,
                          note=f'not scored: {error}')
            forms.append(Form(row, None))
    return _distinct(forms)


def _distinct(forms: Sequence[Form]) -> list[Form]:
    """Forms of the same kind from several files get the file's name."""
    counts = Counter(f.row.form for f in forms)

    def named(name: str, row: FormRow) -> str:
        file = row.file.removesuffix('.mlpackage')
        return f'{name} · {file}' if counts[name] > 1 else name

    return [
        replace(f, row=replace(f.row, form=named(f.row.form, f.row),
                               of=named(f.row.of, f.row))) for f in forms
    ]


def _drifts(subject: Subject, forms: Sequence[Form],
            steps: Steps) -> tuple[Drift, ...]:
    """Of the first files that compute in fp16 with weights as trained."""
    found = []
    count = min(_DRIFT_IMAGES, len(subject.images))
    halves = [f for f in forms if f.tolerance == 'export-fp16']
    for form in halves[:_DRIFT_FILES]:
        assert form.program is not None
        name = form.program.inputs[0].name
        with steps.step(f'drift of {form.row.file}', total=count) as advance:
            rows = measure_drift(
                form.program,
                ({name: pixels} for pixels in _pixels(subject, count)),
                advance)
        found.append(Drift(form.row.form, count, rows))
    return tuple(found)


def _pixels(subject: Subject, count: int) -> Iterator[Tensor]:
    """Images spread over all that were scored, in the files' order."""
    images, total = subject.images, len(subject.images)
    if images.indices:
        images = replace(images, indices=tuple(
            images.indices[i * total // count] for i in range(count)))
    for pixels, _ in images.chunks():
        yield (pixels.flip(1) if subject.flips else pixels).float()


def _provenance(subject: Subject, forms: Sequence[Form],
                command: Optional[str]) -> Provenance:
    here = machine('cpu')
    inputs, outputs = _interface(forms)
    return Provenance(
        command=command or shlex.join(
            ['python', *(a for a in sys.argv if a)]),
        created=datetime.now().astimezone().isoformat(timespec='seconds'),
        config=subject.config,
        config_text=subject.config_text,
        files=subject.files,
        versions={**versions(), **{
            k: v for k, v in here['versions'].items() if k.startswith('mmcv')
        }},
        machine=f'{here["cpu"]}, {here["cores"]} cores, {here["system"]}',
        preprocessing=in_words(subject.split.steps, subject.size),
        inputs=inputs,
        outputs=outputs)


def _interface(
        forms: Sequence[Form]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs of the Core ML files, each once, in words."""
    inputs: dict[str, None] = {}
    outputs: dict[str, None] = {}
    for program in (f.program for f in forms if f.program):
        for feature in program.inputs:
            layout = feature.color_layout or feature.dtype
            shape = ' x '.join(map(str, feature.shape))
            inputs[f'{feature.name}: {feature.kind}, {layout}, {shape}'] = None
        for feature in program.outputs:
            outputs[f'{feature.name}: {feature.kind}'] = None
    return tuple(inputs), tuple(outputs)
