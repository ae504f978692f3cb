"""A report on everything that a work dir holds."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

from ..accuracy import DEFAULT_DROP
from ..coreml.export_data import (
    Images,
    TestSplit,
    choose_images,
    open_split,
    read_sample,
)
from ..coreml.export_source import Source, load_source
from ..coreml.labels import check_labels
from ..coreml.package_files import MANIFEST, package_files
from ..coreml.preprocess import Preprocessing, read_preprocessing
from ..coreml.program import read_program
from ..engine.checkpoint import file_sha256, load_checkpoint_file
from ..errors import MobileOneExtError, ProgramError
from ..option_checks import number
from ..progress import Steps
from .assemble import Network, Subject, assemble
from .data import ReportData
from .find import Found, look
from .forms import tree_bytes

#: Percent by which two figures of the same file may differ.
_SAME = 1e-3


def collect(work_dir: Path,
            *,
            config: Optional[Path] = None,
            checkpoint: Optional[Path] = None,
            images: Union[int, str] = 'test',
            max_drop: float = DEFAULT_DROP,
            cfg_options: Optional[Mapping[str, Any]] = None,
            command: Optional[str] = None,
            progress: bool = False) -> ReportData:
    """Find, load and score what a training and its exports left.

    Scored are the network in branch form, the folded checkpoint beside it
    and every Core ML file of the folder, in its own arithmetic and in fp32.
    Checkpoints are read as data only. The config is a program, as for
    ``tools/test.py``: it is executed.

    Args:
        work_dir: folder of the run.
        config, checkpoint: None for what :func:`find.look` chooses.
        images: 'test' for the whole test split, or a number of its images.
        max_drop: percentage points of top-1 that the recommended file may
            lose against the network, 0 to 100.
        cfg_options: dotted keys to values, merged into the config.
        command: for the page, as typed; None: this process's.
        progress: report steps on stderr.

    Raises:
        MobileOneExtError: the folder lacks something, or an error of its
            kinds: an unsafe checkpoint, an unreadable split.
    """
    number('max_drop', max_drop, 0, 100, MobileOneExtError,
           also='percentage points, ')
    steps = Steps(progress)
    found = look(work_dir, config, checkpoint)
    with steps.step('load network'):
        source = load_source(found.config, found.checkpoint, cfg_options)
        split = open_split(source.config, None, read=True)
        pre = _preprocessing(source, split)
        chosen = choose_images(split, images, pre.shape)
        subject = _subject(work_dir, found, source, split, pre, chosen,
                           cfg_options)
    data = assemble(subject, steps, command)
    if images == 'test':
        data = replace(data, warnings=_contradictions(data, found))
    return replace(data, max_drop=max_drop, kept_fp32=_kept(found))


def _preprocessing(source: Source, split: TestSplit) -> Preprocessing:
    image, _ = read_sample(split, 0)
    return read_preprocessing(
        source.model.get_submodule('data_preprocessor'), image.shape[0],
        (image.shape[1], image.shape[2]), split.data_order)


def _subject(work_dir: Path, found: Found, source: Source, split: TestSplit,
             pre: Preprocessing, images: Images,
             cfg_options: Optional[Mapping[str, Any]]) -> Subject:
    check_labels([('checkpoint', source.classes), *split.labels])
    files = [(found.checkpoint.name, source.sha256 or '')]
    networks = [Network(source.model, found.checkpoint.name)]
    if found.deploy is not None:
        folded = load_source(found.config, found.deploy, cfg_options)
        networks.append(Network(folded.model, found.deploy.name, _origin(
            _deploy_source(found.deploy), source.sha256)))
        files.append((found.deploy.name, folded.sha256 or ''))
    programs = [(path, _origin(_program_source(path), source.sha256))
                for path in sorted(found.programs, key=tree_bytes,
                                   reverse=True)]
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
        files=(*files, *((p.name, _program_hash(p)) for p, _ in programs)))


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
    return (metadata.get('source_checkpoint', ''),
            metadata.get('source_sha256'))


def _origin(source: tuple[str, Optional[str]],
            sha256: Optional[str]) -> str:
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


def _contradictions(data: ReportData, found: Found) -> Sequence[str]:
    """Files whose top-1 is not what ``tools/test.py`` found before."""
    return [
        f'{row.file}: top-1 is {row.top1:.2f} % here, but '
        f'{found.recorded[row.file]:.2f} % in forms.json'
        for row in data.forms
        if row.kind != 'check' and row.top1 is not None
        and abs(found.recorded.get(row.file, row.top1) - row.top1) > _SAME
    ]


def _kept(found: Found) -> tuple[tuple[str, str], ...]:
    """Operations in fp32 and why, as mixed precision files say it."""
    kept: dict[str, str] = {}
    for path in found.programs:
        try:
            text = read_program(path).metadata.get('in_fp32', '[]')
            kept.update((str(op['name']), str(op['why']))
                        for op in json.loads(text))
        except (ProgramError, ValueError, TypeError, KeyError,
                RecursionError):
            continue  # not this exporter's; an unreadable file has its row
    return tuple(kept.items())
