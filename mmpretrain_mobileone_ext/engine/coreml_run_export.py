"""One checkpoint of a run, exported to Core ML and recorded."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from mmengine.config import Config

from ..atomic_file import write_whole
from ..coreml.export_options import ExportOptions
from ..errors import ExportError
from .checkpoint import file_sha256

if TYPE_CHECKING:
    from ..coreml.export_result import ExportResult

#: In the work dir of a run: file name to what was asked for and the figures.
RECORD = 'coreml_export.json'
#: Parts of a config that an export depends on.
_PARTS = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline',
          'default_scope')


def check_exportable(cfg: Config, options: ExportOptions) -> None:
    """Refuse a config or files with which every export would fail.

    Raises:
        ExportError: says what is missing.
    """
    # Late, here and below: the exporter imports this package's modules.
    from ..coreml.export_data import open_split
    if not isinstance(cfg.get('model'), dict):
        raise ExportError('the config of the run has no model to rebuild')
    if options.verify_data != 'none' and not cfg.get('test_dataloader'):
        raise ExportError("the config has no test_dataloader; set verify_data"
                          "='none' or add one")
    open_split(cfg, options.image_size, read=False)
    labels = options.classes
    if isinstance(labels, (str, os.PathLike)) and not Path(labels).is_file():
        raise ExportError(f'classes: {labels}: no such file')


def export_once(cfg: Config, checkpoint: Path,
                options: ExportOptions) -> Optional[ExportResult]:
    """Export and note it in the folder's record; None if it is there.

    It is there if the record says that the file was made from this
    checkpoint with these options, model, test data and package versions.

    Raises:
        MobileOneExtError: as of ``export_coreml``.
    """
    from ..coreml.export import run_export
    from ..coreml.export_source import untouched_rng
    request = _request(cfg, checkpoint, options)
    record = options.out.with_name(RECORD)
    entries = _read(record)
    known = entries.get(options.out.name)
    if _exists(options) and known and known.get('request') == request:
        return None
    with untouched_rng():
        result = run_export(cfg, checkpoint, options)
    entries[options.out.name] = dict(request=request, **figures(result))
    text = json.dumps(entries, indent=2) + '\n'
    write_whole(record, lambda made: made.write_text(text, 'utf-8'),
                ExportError)
    return result


def figures(result: ExportResult) -> dict[str, float]:
    """What was measured: top1 and agreement in %, size_mib, relative_error.

    Those that need labels or class scores are missing without them.
    """
    found, parity = result.verification, result.verification.parity
    shares = dict(top1=found.top1_candidate, agreement=parity.top1_agreement)
    return dict(
        {name: 100 * share for name, share in shares.items()
         if share is not None},
        size_mib=result.size_bytes / 2**20,
        relative_error=parity.relative)


def _request(cfg: Config, checkpoint: Path,
             options: ExportOptions) -> dict[str, Any]:
    """All that decides what an export writes, as plain JSON."""
    from ..coreml.metadata import versions
    parts = {name: value for name, value in cfg.to_dict().items()
             if name in _PARTS}
    text = json.dumps(parts, sort_keys=True, default=str)
    asked = {name: value for name, value in asdict(options).items()
             if name not in ('out', 'force')}
    request = dict(
        checkpoint=checkpoint.name,
        sha256=file_sha256(checkpoint),
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        options=asked,
        versions=versions())
    return json.loads(json.dumps(request, default=str))


def _exists(options: ExportOptions) -> bool:
    return all(path.exists()
               for path in (options.out, options.swift, options.report)
               if path is not None)


def _read(record: Path) -> dict[str, Mapping[str, Any]]:
    """A damaged record is none: the export is then repeated."""
    try:
        found = json.loads(record.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    plain = isinstance(found, dict) and all(
        isinstance(entry, dict) for entry in found.values())
    return found if plain else {}
