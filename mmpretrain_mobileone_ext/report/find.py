"""What a training and its exports leave in a work dir."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..engine.deploy_file import deploy_path
from ..errors import MobileOneExtError

_EPOCH = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


@dataclass(frozen=True)
class Found:
    """Files of one run.

    Attributes:
        config: the run's config.
        checkpoint: in branch form, else any.
        deploy: the folded one made from it, if any.
        programs: Core ML files.
        recorded: form's file name to its top-1 in percent, as
            ``forms.json`` has it from ``tools/test.py``.
    """
    config: Path
    checkpoint: Path
    deploy: Optional[Path]
    programs: tuple[Path, ...]
    recorded: dict[str, float]


def look(work_dir: Path,
         config: Optional[Path] = None,
         checkpoint: Optional[Path] = None) -> Found:
    """Find the files to report on.

    Args:
        work_dir: of a training or a demo.
        config: the ``*.py`` of the folder when None.
        checkpoint: when None, what ``last_checkpoint`` names, else the
            highest ``epoch_*.pth`` or ``iter_*.pth``, else ``best_*.pth``,
            else the only other one.

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
        programs=tuple(sorted(
            p for p in work_dir.iterdir()
            if not p.name.startswith('.') and
            p.suffix in ('.mlpackage', '.mlmodel'))),
        recorded=_recorded(work_dir / 'forms.json'))


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
    found = [p for p in sorted(work_dir.glob('*.pth'))
             if not p.stem.endswith('_deploy')]
    numbered = [(int(m[1]), p) for p in found
                if (m := _EPOCH.fullmatch(p.name))]
    best = [p for p in found if p.name.startswith('best_')]
    for group in ([p for _, p in sorted(numbered)], best, found):
        if group:
            return group[-1]
    return _only_deploy(work_dir)


def _only_deploy(work_dir: Path) -> Path:
    found = sorted(work_dir.glob('*.pth'))
    if len(found) != 1:
        raise MobileOneExtError(
            f'{work_dir}: {len(found)} checkpoints in it, none of them in '
            'branch form; give --checkpoint')
    return found[0]


def _recorded(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    rows = _read_json(path)
    fits = isinstance(rows, list) and all(
        isinstance(r, dict) and isinstance(r.get('top1'), (int, float))
        for r in rows)
    if not fits:
        raise MobileOneExtError(f'{path}: not a table of forms')
    return {str(r.get('source')): float(r['top1']) for r in rows}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise MobileOneExtError(f'{path}: no JSON ({error})') from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise MobileOneExtError(f'{path}: cannot read it ({error})') from error
