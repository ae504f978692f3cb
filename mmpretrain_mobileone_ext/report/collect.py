"""A report on everything that a work dir holds, or on one export."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Optional, Union

from torch import nn

from ..checkpoints.deploy_file import deploy_path
from ..checkpoints.load import load_checkpoint_file
from ..coreml.formats import FORMATS
from ..coreml.metadata import in_words, versions
from ..coreml.program.package_files import MANIFEST, package_files
from ..coreml.program.read import read_program
from ..errors import MobileOneExtError, ProgramError
from ..export.data import Images, TestSplit, choose_images, open_split, read_sample
from ..export.source import Source, check_labels, load_source
from ..models.preprocessing import Preprocessing, read_preprocessing
from ..utils.accuracy import DEFAULT_DROP
from ..utils.checks import number
from ..utils.files import file_sha256, tree_bytes
from ..utils.machine import machine
from ..utils.text import Steps, own_command, shell_command
from .data import FormRow, Provenance, ReportData
from .engine import engine_report
from .forms import Feed, Form, program_forms, torch_form
from .names import layer_names
from .score import (
    Scores,
    confusion_of,
    disagreements,
    drifts,
    parity_checks,
    ranges,
    score,
    scored_rows,
    worst_mistakes,
)

_EPOCH = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
_SHOWN = 12  # images that differ
_MISTAKES = 10
#: Percent by which two figures of the same file may differ.
_SAME = 1e-3


def collect(
    work_dir: Path,
    *,
    config: Optional[Path] = None,
    checkpoint: Optional[Path] = None,
    images: Union[int, str] = 'test',
    max_drop: float = DEFAULT_DROP,
    cfg_options: Optional[Mapping[str, Any]] = None,
    command: Optional[str] = None,
    progress: bool = False,
) -> ReportData:
    """Find, load and score what a training and its exports left.

    Scored are the network in branch form, the folded checkpoint beside it and every Core ML file of
    the folder, in its own arithmetic and in fp32. Checkpoints are read as data only. The config is
    a program, as for ``tools/test.py``: it is executed.

    Args:
        work_dir: folder of the run.
        config, checkpoint: None for what :func:`look` chooses.
        images: 'test' for the whole test split, or a number of its images.
        max_drop: percentage points of top-1 that the recommended file may lose against the network,
            0 to 100.
        cfg_options: dotted keys to values, merged into the config.
        command: for the page, as typed; None: this process's.
        progress: report steps on stderr.

    Raises:
        MobileOneExtError: the folder lacks something, or an error of its kinds: an unsafe
            checkpoint, an unreadable split.
    """
    number('max_drop', max_drop, 0, 100, MobileOneExtError, also='percentage points, ')
    steps = Steps(progress)
    found = look(work_dir, config, checkpoint)
    with steps.step('load network'):
        source = load_source(found.config, found.checkpoint, cfg_options)
        split = open_split(source.config, None, read=True)
        channels, height, width = read_sample(split, 0)[0].shape
        preprocessor = source.model.get_submodule('data_preprocessor')
        pre = read_preprocessing(preprocessor, channels, (height, width), split.data_order)
        chosen = choose_images(split, images, pre.shape)
        subject = _subject(work_dir, found, source, split, pre, chosen, cfg_options)
    data = assemble(subject, steps, command)
    if images == 'test':
        data = replace(data, warnings=_contradictions(data, found))
    return replace(data, max_drop=max_drop, kept_fp32=_kept(found))


def _subject(
    work_dir: Path,
    found: Found,
    source: Source,
    split: TestSplit,
    pre: Preprocessing,
    images: Images,
    cfg_options: Optional[Mapping[str, Any]],
) -> Subject:
    check_labels([('checkpoint', source.classes), *split.labels])
    files = [(found.checkpoint.name, source.sha256 or '')]
    networks = [Network(source.model, found.checkpoint.name)]
    if found.deploy is not None:
        folded = load_source(found.config, found.deploy, cfg_options)
        networks.append(
            Network(
                folded.model,
                found.deploy.name,
                _origin(_deploy_source(found.deploy), source.sha256),
            )
        )
        files.append((found.deploy.name, folded.sha256 or ''))
    programs = [
        (path, _origin(_program_source(path), source.sha256))
        for path in sorted(found.programs, key=tree_bytes, reverse=True)
    ]
    return Subject(
        title=f'{work_dir.resolve().name}: {source.config_name}',
        networks=networks,
        programs=programs,
        split=split,
        images=images,
        classes=source.classes or split.classes or (),
        flips=pre.flips,
        size=pre.size,
        mean=pre.mean,
        std=pre.std,
        config=source.config_name,
        config_text=found.config.read_text(encoding='utf-8'),
        files=(*files, *((p.name, _program_hash(p)) for p, _ in programs)),
    )


def _deploy_source(deploy: Path) -> tuple[str, Optional[str]]:
    meta = load_checkpoint_file(deploy).get('meta', {})
    record = meta.get('deploy') if isinstance(meta, Mapping) else None
    record = record if isinstance(record, Mapping) else {}
    return str(record.get('source_file', '')), record.get('source_sha256')


def _program_source(path: Path) -> tuple[str, Optional[str]]:
    try:
        metadata = read_program(path).metadata
    except ProgramError:
        return '', None  # its row will say so
    return (metadata.get('source_checkpoint', ''), metadata.get('source_sha256'))


def _origin(source: tuple[str, Optional[str]], sha256: Optional[str]) -> str:
    """A note where a form was made from other weights than the reference."""
    name, known = source
    if not known or known == 'null' or known == sha256:
        return ''
    return f'made from another checkpoint, {name} ({known[:12]})'


def _program_hash(path: Path) -> str:
    """Of a file, or of the package's specification and weights in turn."""
    if path.is_file():
        return file_sha256(path)
    try:
        parts = [p for p in package_files(path) if p.name != MANIFEST]
    except ProgramError:
        return ''  # its row will say so
    return ' '.join(f'{p.name} {file_sha256(p)}' for p in parts)


def _contradictions(data: ReportData, found: Found) -> list[str]:
    """Files whose top-1 is not what ``tools/test.py`` found before."""
    return [
        f'{row.file}: top-1 is {row.top1:.2f} % here, but '
        f'{found.recorded[row.file]:.2f} % in forms.json'
        for row in data.forms
        if row.kind != 'check'
        and row.top1 is not None
        and abs(found.recorded.get(row.file, row.top1) - row.top1) > _SAME
    ]


def _kept(found: Found) -> tuple[tuple[str, str], ...]:
    """Operations in fp32 and why, as mixed precision files say it."""
    kept: dict[str, str] = {}
    for path in found.programs:
        try:
            text = read_program(path).metadata.get('in_fp32', '[]')
            kept.update((str(op['name']), str(op['why'])) for op in json.loads(text))
        except (ProgramError, ValueError, TypeError, KeyError, RecursionError):
            continue  # not this exporter's; an unreadable file has its row
    return tuple(kept.items())


@dataclass(frozen=True)
class Found:
    """Files of one run.

    Attributes:
        config: the run's config.
        checkpoint: in branch form, else any.
        deploy: the folded one made from it, if any.
        programs: Core ML files.
        recorded: form's file name to its top-1 in percent, as ``forms.json`` has it from
            ``tools/test.py``.
    """

    config: Path
    checkpoint: Path
    deploy: Optional[Path]
    programs: tuple[Path, ...]
    recorded: dict[str, float]


def look(work_dir: Path, config: Optional[Path] = None, checkpoint: Optional[Path] = None) -> Found:
    """Find the files to report on.

    Args:
        work_dir: of a training or a demo.
        config: the ``*.py`` of the folder when None.
        checkpoint: when None, what ``last_checkpoint`` names, else the highest ``epoch_*.pth`` or
            ``iter_*.pth``, else ``best_*.pth``, else the only other one.

    Raises:
        MobileOneExtError: the folder, a config or a checkpoint is missing.
    """
    if not work_dir.is_dir():
        raise MobileOneExtError(f'{work_dir}: no such work dir')
    chosen = checkpoint or _checkpoint(work_dir)
    deploy = deploy_path(chosen)
    return Found(
        config=_existing(config or _only_config(work_dir), 'config'),
        checkpoint=_existing(chosen, 'checkpoint'),
        deploy=deploy if deploy.is_file() else None,
        programs=tuple(
            sorted(
                p for p in work_dir.iterdir() if not p.name.startswith('.') and p.suffix in FORMATS
            )
        ),
        recorded=_recorded(work_dir / 'forms.json'),
    )


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise MobileOneExtError(f'{path}: no such {what}')
    return path


def _only_config(work_dir: Path) -> Path:
    """Of several none is taken: the newest is what a clock says it is."""
    found = sorted(work_dir.glob('*.py'))
    if len(found) != 1:
        names = ', '.join(p.name for p in found) or 'no config (*.py)'
        raise MobileOneExtError(f'{work_dir}: {names} in it; give --config')
    return found[0]


def _checkpoint(work_dir: Path) -> Path:
    named = work_dir / 'last_checkpoint'
    if named.is_file():
        # The folder may have moved since.
        last = work_dir / Path(_text(named).strip()).name
        if last.is_file():
            return last
    found = [p for p in sorted(work_dir.glob('*.pth')) if not p.stem.endswith('_deploy')]
    numbered = [(int(m[1]), p) for p in found if (m := _EPOCH.fullmatch(p.name))]
    best = [p for p in found if p.name.startswith('best_')]
    for group in ([p for _, p in sorted(numbered)], best, found):
        if group:
            return group[-1]
    folded = list(work_dir.glob('*.pth'))
    if len(folded) != 1:
        raise MobileOneExtError(
            f'{work_dir}: {len(folded)} checkpoints in it, none of them in '
            'branch form; give --checkpoint'
        )
    return folded[0]


def _recorded(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        rows = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise MobileOneExtError(f'{path}: no JSON ({error})') from error
    fits = isinstance(rows, list) and all(
        isinstance(r, dict) and isinstance(r.get('top1'), (int, float)) for r in rows
    )
    if not fits:
        raise MobileOneExtError(f'{path}: not a table of forms')
    return {str(r.get('source')): float(r['top1']) for r in rows}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise MobileOneExtError(f'{path}: cannot read it ({error})') from error


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
        baseline: of the programs, the one that accuracy is lost against; None: the reference
            network.
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


def assemble(subject: Subject, steps: Steps, command: Optional[str] = None) -> ReportData:
    """Score every form on the same images and measure the drift.

    The caller adds what only it knows (candidates, operations kept in fp32, warnings) with
    ``dataclasses.replace``.

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
    with steps.step(f'score {len(forms)} forms', total=len(subject.images)) as advance:
        scores = score(forms, subject.images, advance)
    baseline = _baseline(forms, scores, subject.baseline)
    rows = scored_rows(forms, scores, baseline)
    running = [f for f in forms if f.row.form in scores.probabilities]
    with steps.step('compare'):
        odd, count = disagreements(
            scores, rows, subject.images, subject.classes, subject.split.data_order, _SHOWN
        )
    judged = _judged(rows, scores)
    files = [(f.row.form, f.program) for f in running if f.program and f.row.kind == 'coreml']
    data = ReportData(
        title=subject.title,
        forms=rows,
        images=subject.images.origin,
        num_images=len(subject.images),
        reference=scores.reference,
        baseline=baseline,
        disagreements=odd,
        num_disagreements=count,
        mistakes=worst_mistakes(
            scores, judged, subject.images, subject.classes, subject.split.data_order, _MISTAKES
        ),
        confusion=confusion_of(scores, judged, subject.classes),
        judged=judged,
        drift=drifts(running, subject.images, subject.feed, steps),
        weight_ranges=ranges(forms),
        parity=parity_checks(forms, scores),
        engine=engine_report(files),
        provenance=_provenance(subject, forms, command),
    )
    return _with_places(data, subject, running)


def _judged(rows: Sequence[FormRow], scores: Scores) -> str:
    """The form whose mistakes are shown: what a phone gets, where it could be scored."""
    files = [r.form for r in rows if r.kind == 'coreml' and r.form in scores.probabilities]
    return next(iter(files), scores.reference)


def _with_places(data: ReportData, subject: Subject, forms: Sequence[Form]) -> ReportData:
    """Say of each layer and operation where in the network it is."""
    places: dict[str, str] = {}
    for form in forms:
        if form.program is not None and form.tolerance:
            places.update(layer_names(form.program, subject.networks[0].model))
    return replace(
        data,
        places=places,
        drift=[
            replace(d, rows=tuple(replace(r, place=places.get(r.name, '')) for r in d.rows))
            for d in data.drift
        ],
        weight_ranges=[replace(r, place=places.get(r.layer, '')) for r in data.weight_ranges],
    )


def _baseline(forms: Sequence[Form], scores: Scores, path: Optional[Path]) -> str:
    """Name of the form of a file, else of the reference."""
    names = [
        f.row.form
        for f in forms
        if f.program is not None and f.program.path == path and f.row.kind == 'coreml'
    ]
    return next((name for name in names if name in scores.probabilities), scores.reference)


def _forms(subject: Subject) -> list[Form]:
    forms = [torch_form(n.model, n.file, subject.images, n.note) for n in subject.networks]
    for path, note in subject.programs:
        try:
            forms += program_forms(path, subject.feed, note)
        except ProgramError as error:
            row = FormRow(form=f'Core ML, {path.name}', file=path.name, note=f'not scored: {error}')
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
        distinct.append(replace(form, row=replace(row, form=name, of=of if row.of else '')))
    return distinct


def _provenance(subject: Subject, forms: Sequence[Form], command: Optional[str]) -> Provenance:
    here = machine('cpu')
    inputs, outputs = _interface(forms)
    return Provenance(
        command=command or shell_command(own_command()),
        created=datetime.now().astimezone().isoformat(timespec='seconds'),
        config=subject.config,
        config_text=subject.config_text,
        files=subject.files,
        versions={
            **versions(),
            **{k: v for k, v in here['versions'].items() if k.startswith('mmcv')},
        },
        machine=f'{here["cpu"]}, {here["cores"]} cores, {here["system"]}',
        preprocessing=in_words(subject.split.steps, subject.size),
        inputs=inputs,
        outputs=outputs,
    )


def _interface(forms: Sequence[Form]) -> tuple[tuple[str, ...], tuple[str, ...]]:
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
