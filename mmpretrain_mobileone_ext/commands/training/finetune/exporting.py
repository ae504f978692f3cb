"""What a fine-tuning hands on to its export, checked before anything else is done."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from ....coreml.swift.package import check_target, derived_name
from ....export.options import ExportOptions
from ..to_phone import last_checkpoint

#: Options of the command line that change what is exported, and nothing of the training.
EXPORTED = ('format', 'compress', 'swift')
#: Steps of a run that follow from them.
EXPORT_STEPS = ('export', 'test coreml', 'report')


def check_export(args: argparse.Namespace, work_dir: Path) -> None:
    """Check what the export is asked for, by its own checks, before the work dir is there.

    A Swift package that is there already is replaced only by a run that goes on or is forced.

    Raises:
        ExportError: a format that is unknown or not installed, a scheme that no file can hold, or
            a Swift package that cannot be written.
    """
    below = next(p for p in (work_dir, *work_dir.resolve().parents) if p.is_dir())
    options = ExportOptions(
        out=package_of(args, below), compress=args.compress, swift=args.swift or None, force=True
    )
    options.format.require()
    options.check_apart_from(data=args.data)
    if options.swift is not None:
        # A run that is there is told of by itself, with what to give.
        goes_on = args.resume or last_checkpoint(work_dir) is not None
        check_target(options.swift, force=args.force or goes_on)


def package_of(args: argparse.Namespace, work_dir: Path) -> Path:
    """The file for the phone."""
    return work_dir / f'model.{args.format}'


def swift_folder(args: argparse.Namespace, work_dir: Path) -> Optional[Path]:
    """Where the Swift package is put; None where none is asked for."""
    if args.swift is None:
        return None
    return Path(args.swift).expanduser() if args.swift else work_dir / 'swift'


def swift_in_words(folder: Path) -> str:
    """The package's folder, and what an app imports."""
    return f'{folder} (import {derived_name(folder.resolve().name)})'


def export_words(args: argparse.Namespace, work_dir: Path) -> list[str]:
    """Words of ``mobileone-ext export`` beyond those of every run."""
    folder = swift_folder(args, work_dir)
    words = ['--compress', args.compress] if args.compress else []
    return [*words, '--swift', str(folder)] if folder else words
