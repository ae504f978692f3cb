"""From a loaded network and Core ML files to all that a report shows."""
from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Optional

from torch import nn

from ..benchmark.machine import machine
from ..coreml.export_data import Images, TestSplit
from ..coreml.metadata import in_words, versions
from ..errors import ProgramError
from ..outside_text import shell_command
from ..progress import Steps
from .data import FormRow, Provenance, ReportData
from .disagree import disagreements
from .forms_of import Feed, Form, program_forms, torch_form
from .inside import drifts, ranges
from .score import Scores, parity_checks, score, scored_rows

_SHOWN = 12  # images that differ


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
        mean, std: of the network, for files that leave them to the app.
        baseline: of the programs, the one that accuracy is lost against;
            None: the reference network.
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
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    baseline: Optional[Path] = None

    @property
    def feed(self) -> Feed:
        """What makes the files' inputs."""
        return Feed(self.flips, self.mean, self.std)


def assemble(subject: Subject, steps: Steps,
             command: Optional[str] = None) -> ReportData:
    """Score every form on the same images and measure the drift.

    The caller adds what only it knows (candidates, operations kept in fp32,
    warnings) with ``dataclasses.replace``.

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
    baseline = _baseline(forms, scores, subject.baseline)
    rows = scored_rows(forms, scores, baseline)
    running = [f for f in forms if f.row.form in scores.probabilities]
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
        baseline=baseline,
        disagreements=odd,
        num_disagreements=count,
        drift=drifts(running, subject.images, subject.feed, steps),
        weight_ranges=ranges(forms),
        parity=parity_checks(forms, scores),
        provenance=_provenance(subject, forms, command))


def _baseline(forms: Sequence[Form], scores: Scores,
              path: Optional[Path]) -> str:
    """Name of the form of a file, else of the reference."""
    return next((f.row.form for f in forms
                 if f.program is not None and f.program.path == path
                 and f.row.kind == 'coreml'
                 and f.row.form in scores.probabilities), scores.reference)


def _forms(subject: Subject) -> list[Form]:
    forms = [torch_form(n.model, n.file, subject.images, n.note)
             for n in subject.networks]
    for path, note in subject.programs:
        try:
            forms += program_forms(path, subject.feed, note)
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

    seen: Counter[str] = Counter()
    distinct = []
    for form in forms:
        row = form.row
        name, of = named(row.form, row), named(row.of, row)
        seen[name] += 1
        if seen[name] > 1:  # files of the same name in two folders
            name, of = f'{name} ({seen[name]})', f'{of} ({seen[name]})'
        distinct.append(replace(form, row=replace(
            row, form=name, of=of if row.of else '')))
    return distinct


def _provenance(subject: Subject, forms: Sequence[Form],
                command: Optional[str]) -> Provenance:
    here = machine('cpu')
    inputs, outputs = _interface(forms)
    return Provenance(
        command=command or shell_command(
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
