"""This package's exporter and mmdeploy on one checkpoint, side by side."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, Union

from rich.table import Table

from ...coreml.program.graph import Program
from ...coreml.program.read import read_program
from ...errors import ExportError
from ...export.options import ExportOptions
from ...exporter import run_export
from ...utils.files import write_whole
from ...utils.parity import Parity
from ...utils.text import Steps, share
from .convert import require_mmdeploy
from .deploy import DeployResult, app_work, run_deploy
from .deploy_config import DeployConfig, DeployOptions

PathLike = Union[str, Path]
_OWN_TARGET = 'iOS16'


@dataclass(frozen=True)
class ExporterRow:
    """A Core ML file of one exporter.

    Attributes:
        exporter: who made it.
        precision: 'fp16' or 'fp32'.
        input: what it takes, in words.
        output: what it gives, in words.
        app: what is left to the app, in words.
        operations: number of operations in the file.
        network: of them, from the first conv to the softmax.
        around: operation type to count, of the others.
        size_bytes: of the package.
        top1: percent of correct labels; None without labels.
        agreement: percent of images with torch's top-1.
        relative: error of the probabilities, see ``Parity``.
        images: what it was compared on, in words.
        seconds: from the checkpoint to the verified file, imports apart.
        num_images: how many it was compared on.
    """

    exporter: str
    precision: str
    input: str
    output: str
    app: str
    operations: int
    network: int
    around: dict[str, int]
    size_bytes: int
    top1: Optional[float]
    agreement: float
    relative: float
    images: str
    seconds: float
    num_images: int = 0


def compare_exporters(
    deploy: DeployConfig,
    config: PathLike,
    checkpoint: PathLike,
    options: DeployOptions,
    cfg_options: Optional[Mapping[str, Any]] = None,
    progress: bool = False,
) -> tuple[DeployResult, list[ExporterRow]]:
    """Export with both, score both on the same images.

    Ours is made first, so that what the first conversion of a process costs is on our side, and it
    is removed afterwards; mmdeploy's stays at ``options.out``.

    Raises:
        ExportError: as ``run_deploy``; the backend is not Core ML.
    """
    if deploy.backend != 'coreml':
        raise ExportError(
            f'{deploy.name} is for {deploy.backend}; only Core '
            "ML files can be compared with our exporter's"
        )
    options.check_target(deploy)
    require_mmdeploy(deploy.backend)
    with tempfile.TemporaryDirectory() as folder:
        ours = _ours(Path(folder), deploy, config, checkpoint, options, cfg_options, progress)
    made = run_deploy(deploy, config, checkpoint, options, cfg_options, Steps(progress))
    return made, [ours, _theirs(made)]


def _ours(
    folder: Path,
    deploy: DeployConfig,
    config: PathLike,
    checkpoint: PathLike,
    options: DeployOptions,
    cfg_options: Optional[Mapping[str, Any]],
    progress: bool,
) -> ExporterRow:
    request = ExportOptions(
        out=folder / f'ours{deploy.suffix}',
        precision=deploy.precision,
        image_size=options.image_size,
        deployment_target=(deploy.cfg.backend_config.get('common_config') or {}).get(
            'minimum_deployment_target'
        )
        or _OWN_TARGET,
        verify_data=options.verify_data,
    )
    start = time.perf_counter()
    result = run_export(config, checkpoint, request, cfg_options, progress)
    seconds = time.perf_counter() - start
    program, pre = read_program(result.path), result.job.preprocessing
    height, width = pre.size
    return _row(
        program,
        result.verification.parity,
        exporter='this package',
        precision=deploy.precision,
        input=f'image, {pre.layout}, {height} x {width}',
        output='label and probabilities',
        app='resize',
        size_bytes=result.size_bytes,
        top1=_percent(result.verification.top1_candidate),
        images=result.verification.images,
        seconds=seconds,
    )


def _theirs(made: DeployResult) -> ExporterRow:
    return _row(
        read_program(made.path),
        made.scored.parity,
        exporter=f'mmdeploy {made.mmdeploy}',
        precision=made.network.deploy.precision,
        input=f'normalized {made.opened.input}',
        output='probabilities',
        app=app_work(made.network),
        size_bytes=made.size_bytes,
        top1=_percent(made.scored.top1_candidate),
        images=made.scored.images,
        seconds=made.seconds,
    )


def _row(program: Program, parity: Parity, **known: Any) -> ExporterRow:
    types = [op.type for op in program.operations]
    inside, around = _divided(types)
    return ExporterRow(
        operations=len(types),
        network=len(inside),
        around=dict(Counter(around).most_common()),
        agreement=100 * (parity.top1_agreement or 0.0),
        relative=parity.relative,
        num_images=parity.num_samples,
        **known,
    )


def _divided(types: Sequence[str]) -> tuple[list[str], list[str]]:
    """Operations from the first conv to the last softmax, and the others."""
    first = types.index('conv')
    last = len(types) - 1 - list(reversed(types)).index('softmax')
    return list(types[first : last + 1]), [*types[:first], *types[last + 1 :]]


def comparison_table(rows: Sequence[ExporterRow]) -> Table:
    """One column an exporter, for a terminal or a log."""
    table = Table(title='Core ML, one checkpoint, two exporters')
    table.add_column(style='bold', no_wrap=True)
    for row in rows:
        table.add_column(row.exporter, overflow='fold')
    cells = [_cells(row) for row in rows]
    for name in cells[0]:
        table.add_row(name, *(one[name] for one in cells))
    return table


def _cells(row: ExporterRow) -> dict[str, str]:
    around = ''.join(f' + {n} {kind}' for kind, n in row.around.items())
    return {
        'input': row.input,
        'output': row.output,
        'left to the app': row.app,
        'operations': f'{row.operations} = {row.network} network{around}',
        'precision': row.precision,
        'size KiB': f'{row.size_bytes / 1024:.0f}',
        'top-1 %': 'no labels' if row.top1 is None else share(row.top1, row.num_images),
        'same top-1 as torch %': f'{row.agreement:.2f}',
        'relative error': f'{row.relative:.1e}',
        'compared on': row.images,
        'seconds, verified': f'{row.seconds:.1f}',
    }


def write_comparison(rows: Sequence[ExporterRow], path: Path) -> Path:
    """Write a JSON list of objects with the fields above.

    Raises:
        ExportError: the disk refuses.
    """
    text = json.dumps([asdict(row) for row in rows], indent=2) + '\n'
    return write_whole(path, lambda made: made.write_text(text, 'utf-8'), ExportError)


def _percent(share: Optional[float]) -> Optional[float]:
    return None if share is None else 100 * share
