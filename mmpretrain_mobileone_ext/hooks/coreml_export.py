"""Export the best checkpoint to Core ML at the end of a run."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Optional

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from ..checkpoints.load import load_checkpoint_file
from ..errors import ExportError, MobileOneExtError, SpecError
from ..export.options import OPTIONS, ExportOptions, as_words
from ..utils.checks import boolean, mapping, one_of, refuse
from ..utils.doctor.failed_import import TRACEBACK
from ..utils.files import file_sha256, write_whole
from ..utils.machine import untouched_rng
from ..utils.text import shell_command
from .deploy import DeploySwitchHook
from .run import best_checkpoints, check_order, last_checkpoint, leaves_preview, spare_others

if TYPE_CHECKING:
    from ..export.result import ExportResult

_OWN = 'CoreMLExportHook'
_TOOL = 'mobileone-ext export'
#: In the work dir of a run: file name to what was asked for and the figures.
RECORD = 'coreml_export.json'
#: Parts of a config that an export depends on.
_PARTS = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline', 'default_scope')
_WHICH = ('best', 'last', 'both')
_STEM = '{checkpoint}'
_INSIDE = ('swift', 'report')  # relative to the work dir
_NO_COREMLTOOLS = (
    f'{_OWN}: coremltools is not installed; unless it is before training '
    'ends, the export will fail: '
    "pip install 'coremltools>=9,<10' 'numpy<2.4'"
)
#: Longer than any export; the run's own group gives up after minutes.
_PATIENCE = timedelta(days=7)


@HOOKS.register_module()
class CoreMLExportHook(Hook):
    """Leave a verified and scored Core ML file in the work dir.

    After training the checkpoint is exported as ``tools/export_coreml.py`` does it: from the file,
    so with the averaged weights where the run has EMA; folded, compared with the network on images,
    and scored. The log states parity, size and accuracy. The visualizer gets ``coreml/top1`` and
    ``coreml/agreement`` (%), ``coreml/size_mib`` and ``coreml/relative_error`` at the checkpoint's
    step, and ``coreml_export.json`` keeps them with what was asked for.

    Options that cannot work are refused before the first iteration. What fails after training fails
    nothing else, unless ``strict``: the log then has the reason and the command that exports by
    hand.

    A finished run that is resumed exports again only where the file is missing, or was made from
    another checkpoint or with other options, model, test data or package versions.

    In a distributed run rank 0 exports and the others wait.

    Args:
        which: 'best' (by each figure of ``CheckpointHook.save_best``; the last where there is
            none), 'last' or 'both'.
        out: file name in the work dir, of any format that is exported; ``{checkpoint}`` is the
            checkpoint's name without suffix.
        strict: raise where the export fails.
        cfg_options: dotted keys to values, merged into the config that is exported.
        options: those of ``export_coreml`` by name: precision, compress, verify_data, ... ``force``
            is True by default; ``swift`` and ``report`` are relative to the work dir and may hold
            ``{checkpoint}``.

    Raises:
        SpecError: an unknown argument, or a priority that puts the hook before ``DeploySwitchHook``
            or ``CheckpointHook``.
        ExportError: an option that cannot be; with ``strict`` an export that failed.
    """

    # After DeploySwitchHook (BELOW_NORMAL) and CheckpointHook (VERY_LOW).
    priority = 'LOWEST'

    def __init__(
        self,
        which: str = 'best',
        out: str = f'{_STEM}.mlpackage',
        strict: bool = False,
        cfg_options: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ):
        _check_arguments(which, out, options)
        boolean(f'{_OWN}: strict', strict)
        if cfg_options is not None:
            mapping(f'{_OWN}: cfg_options', cfg_options)
        self.which = which
        self.out = out
        self.strict = strict
        self.cfg_options = dict(cfg_options or {})
        self.options = {'force': True, **options}
        self._group: Any = None
        with TemporaryDirectory() as folder:
            self._options_of(Path(folder), 'checkpoint')

    def before_run(self, runner) -> None:
        """Leave a run that has no network to export."""
        leaves_preview(self, runner)

    def before_train(self, runner) -> None:
        """Refuse what could only fail after training."""
        check_order(runner.hooks, self, after=[DeploySwitchHook, CheckpointHook])
        self._check_names(runner.hooks)
        spare_others(runner)
        options = self._options_of(Path(runner.work_dir), 'checkpoint')
        try:
            check_exportable(self._config_of(runner), options)
        except ExportError as error:
            raise ExportError(f'{_OWN}: {error}') from error
        if find_spec('coremltools') is None:
            if self.strict:
                raise ExportError(_NO_COREMLTOOLS)
            runner.logger.warning(_NO_COREMLTOOLS)
        if get_world_size() > 1 and self._group is None:
            self._group = dist.new_group(backend='gloo', timeout=_PATIENCE)

    def after_train(self, runner) -> None:
        """Export on rank 0; the other ranks wait for the outcome."""
        failures = self._export_all(runner) if is_main_process() else []
        if self._group is not None:
            box = [failures]
            dist.broadcast_object_list(box, src=0, group=self._group)
            failures = box[0]
        if failures and self.strict:
            raise ExportError(failures[0])

    def _export_all(self, runner) -> list[str]:
        """Export what there is; what failed, one line each."""
        chosen = self._chosen(runner)
        found = [self._try(runner, checkpoint) for checkpoint in chosen]
        failures = [line for line in found if line is not None]
        if not chosen:
            failures = [f'{_OWN}: the run saved no checkpoint, so there is none to export']
        for line in failures:
            runner.logger.error(line)
        return failures

    def _chosen(self, runner) -> list[Path]:
        bests, last = best_checkpoints(runner), last_checkpoint(runner)
        lasts = [last] if last else []
        if self.which == 'last':
            return lasts
        if lasts and not bests:
            runner.logger.info(f'{_OWN}: the run kept no best checkpoint; the last one is exported')
        return bests + lasts if self.which == 'both' else bests or lasts

    def _try(self, runner, checkpoint: Path) -> Optional[str]:
        try:
            self._export(runner, checkpoint)
        # Whatever it is: the training is worth more.
        except Exception as error:
            if os.environ.get(TRACEBACK):
                runner.logger.exception(error)
            return (
                f'{_OWN}: the export of {checkpoint.name} failed: {_reason(error)}. The training '
                'is complete and its checkpoints are kept. By hand: '
                f'{self._command(runner, checkpoint)}'
            )
        return None

    def _export(self, runner, checkpoint: Path) -> None:
        options = self._options_of(Path(runner.work_dir), checkpoint.stem)
        runner.logger.info(f'{_OWN}: exporting {checkpoint.name} ...')
        start = time.monotonic()
        result = export_once(self._config_of(runner), checkpoint, options)
        if result is None:
            runner.logger.info(
                f'{_OWN}: {options.out} was made from this '
                'checkpoint with these options; it is kept'
            )
            return
        rows = ''.join(f'\n  {name}: {value}' for name, value in result.rows())
        runner.logger.info(f'{_OWN}: done in {time.monotonic() - start:.1f} s{rows}')
        runner.visualizer.add_scalars(
            {f'coreml/{k}': v for k, v in figures(result).items()}, step=_step(runner, checkpoint)
        )

    def _check_names(self, hooks: list[Hook]) -> None:
        """Several files need several names."""
        savers = [h for h in hooks if isinstance(h, CheckpointHook)]
        if not savers:
            raise SpecError(
                f'{_OWN}: the run has no CheckpointHook, so there would be nothing to export'
            )
        several = self.which == 'both' or (
            self.which == 'best' and any(len(h.save_best or ()) > 1 for h in savers)
        )
        named = {'out': self.out, **{k: self.options.get(k) for k in _INSIDE}}
        fixed = [k for k, v in named.items() if v and _STEM not in str(v)]
        if several and fixed:
            raise SpecError(
                f'{_OWN}: {fixed[0]}={str(named[fixed[0]])!r} is one name, but several '
                f'checkpoints may be exported; put {_STEM} into it'
            )

    def _options_of(self, folder: Path, stem: str) -> ExportOptions:
        try:
            return ExportOptions(**self._given(folder, stem))
        except ExportError as error:
            raise ExportError(f'{_OWN}: {error}') from None

    def _given(self, folder: Path, stem: str) -> dict[str, Any]:
        """The options as they were given, with paths of their own."""
        inside = {
            k: folder / str(v).replace(_STEM, stem)
            for k, v in self.options.items()
            if k in _INSIDE and v
        }
        out = folder / self.out.replace(_STEM, stem)
        return {**self.options, **inside, 'out': out}

    def _config_of(self, runner) -> Config:
        cfg = copy.deepcopy(runner.cfg)
        try:
            cfg.merge_from_dict(self.cfg_options)
        # mmengine answers a key that does not fit in several ways.
        except Exception as error:
            raise SpecError(
                f'{_OWN}: cfg_options do not fit the config ({_reason(error)})'
            ) from error
        return cfg

    def _command(self, runner, checkpoint: Path) -> str:
        """What to type; mmengine's Runner has written its config there."""
        work_dir = Path(runner.work_dir)
        name = Path(runner.cfg.filename or f'{runner.timestamp}.py').name
        given = self._given(work_dir, checkpoint.stem)
        return export_command(
            work_dir / name, checkpoint, given.pop('out'), given, self.cfg_options
        )


def _check_arguments(which: Any, out: Any, options: Mapping[str, Any]) -> None:
    one_of(f'{_OWN}: which', which, _WHICH)
    allowed = [name for name in OPTIONS if name != 'out']
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise SpecError(
            f'{_OWN}: unknown options {", ".join(unknown)}; '
            f'allowed are which, out, strict, cfg_options, {", ".join(allowed)}'
        )
    if not isinstance(out, str) or not out or Path(out).name != out:
        refuse(
            f'{_OWN}: out', out, 'a file name without a folder; the file is put into the work dir'
        )
    for name in _INSIDE:
        folder = options.get(name)
        if folder is not None and not _is_inside(folder):
            refuse(f'{_OWN}: {name}', folder, 'a folder inside the work dir, relative to it')


def _is_inside(folder: Any) -> bool:
    if not isinstance(folder, (str, os.PathLike)):
        return False
    parts = Path(folder).parts
    return bool(parts) and not Path(folder).is_absolute() and '..' not in parts


def _step(runner, checkpoint: Path) -> int:
    """Epoch or iteration at which the checkpoint was saved."""
    by_epoch = any(h.by_epoch for h in runner.hooks if isinstance(h, CheckpointHook))
    unit = 'epoch' if by_epoch else 'iter'
    meta = load_checkpoint_file(checkpoint).get('meta', {})
    return int(meta.get(unit, getattr(runner, unit)))


def _reason(error: Exception) -> str:
    text = (
        str(error) if isinstance(error, MobileOneExtError) else f'{type(error).__name__}: {error}'
    )
    return ' '.join(text.split())


def check_exportable(cfg: Config, options: ExportOptions) -> None:
    """Refuse a config or files with which every export would fail.

    Raises:
        ExportError: says what is missing.
    """
    if not isinstance(cfg.get('model'), dict):
        raise ExportError('the config of the run has no model to rebuild')
    if options.verify_data != 'none' and not cfg.get('test_dataloader'):
        raise ExportError("the config has no test_dataloader; set verify_data='none' or add one")
    from ..export.data import open_split

    open_split(cfg, options.image_size, read=False)
    labels = options.classes
    if isinstance(labels, (str, os.PathLike)) and not Path(labels).is_file():
        raise ExportError(f'classes: {labels}: no such file')


def export_once(cfg: Config, checkpoint: Path, options: ExportOptions) -> Optional[ExportResult]:
    """Export and note it in the folder's record; None if it is there.

    It is there if the record says that the file was made from this checkpoint with these options,
    model, test data and package versions.

    Raises:
        MobileOneExtError: as of ``export_coreml``.
    """
    # Late: a run needs it at its end only.
    from ..exporter import run_export

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
    write_whole(record, lambda made: made.write_text(text, 'utf-8'), ExportError)
    return result


def figures(result: ExportResult) -> dict[str, float]:
    """What was measured: top1 and agreement in %, size_mib, relative_error.

    Those that need labels or class scores are missing without them.
    """
    found, parity = result.verification, result.verification.parity
    shares = dict(top1=found.top1_candidate, agreement=parity.top1_agreement)
    return dict(
        {name: 100 * share for name, share in shares.items() if share is not None},
        size_mib=result.size_bytes / 2**20,
        relative_error=parity.relative,
    )


def _request(cfg: Config, checkpoint: Path, options: ExportOptions) -> dict[str, Any]:
    """All that decides what an export writes, as plain JSON."""
    from ..coreml.metadata import versions

    parts = {name: value for name, value in cfg.to_dict().items() if name in _PARTS}
    text = json.dumps(parts, sort_keys=True, default=str)
    asked = {name: value for name, value in asdict(options).items() if name not in ('out', 'force')}
    request = dict(
        checkpoint=checkpoint.name,
        sha256=file_sha256(checkpoint),
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        options=asked,
        versions=versions(),
    )
    return json.loads(json.dumps(request, default=str))


def _exists(options: ExportOptions) -> bool:
    return all(
        path.exists() for path in (options.out, options.swift, options.report) if path is not None
    )


def _read(record: Path) -> dict[str, Mapping[str, Any]]:
    """A damaged record is none: the export is then repeated."""
    try:
        found = json.loads(record.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    plain = isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values())
    return found if plain else {}


def export_command(
    config: Path,
    checkpoint: Path,
    out: Path,
    options: Mapping[str, Any],
    cfg_options: Optional[Mapping[str, Any]] = None,
) -> str:
    """Write down the command that exports ``checkpoint`` by hand.

    Args:
        config: config file.
        out: target.
        options: of ``ExportOptions``, by name, as a user gives them. Labels become the file
            ``LABELS_FILE``, which has to be made.
        cfg_options: dotted keys to values, merged into the config.

    Returns:
        str: one line for a POSIX shell.
    """
    words = [str(config), str(checkpoint), *as_words({'out': out, **options})]
    if cfg_options:
        words += [
            '--cfg-options',
            *(f'{key}={_spelled(value)}' for key, value in cfg_options.items()),
        ]
    return f'{_TOOL} {shell_command(words)}'


def _spelled(value: Any) -> str:
    """As mmengine's ``DictAction`` reads it: no quotes inside lists."""
    if isinstance(value, (list, tuple)):
        inner = ','.join(map(_spelled, value))
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return str(value)
