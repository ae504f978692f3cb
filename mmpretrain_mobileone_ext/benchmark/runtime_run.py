"""Command line of ``tools/benchmark_runtime.py``: measure, show, store."""
from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from rich.console import Console
from rich.table import Table

from ..errors import SpecError
from ..outside_text import PlainConsole
from ..progress import Steps
from ..tool_parser import ToolParser
from .files import check_writable, write_json
from .machine import machine, torch_threads
from .runtime_results import (
    FORMS,
    ExportTime,
    RuntimeCase,
    RuntimeOptions,
    RuntimeReport,
)


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``RuntimeOptions``."""
    p = ToolParser(error_type=SpecError,
                   description='Throughput of the reference runtime against '
                   'the folded torch network, in turns in one process, and '
                   'the time of a whole export with its verification.')
    p.add_argument('--arch', default='s0', metavar='X',
                   help='s0 ... s4 (default: s0)')
    p.add_argument('--batch', type=int, nargs='+', default=(1, 8, 32),
                   metavar='N', help='images at a time (default: 1 8 32)')
    for name, default, text in (
            ('--size', 224, 'height and width in pixels'),
            ('--threads', 2, "torch's threads"),
            ('--rounds', 9, 'timed runs of each form'),
            ('--warmup', 2, 'rounds before them'),
            ('--images', 100, 'images of the timed export, 0 for none')):
        p.add_argument(name, type=int, default=default, metavar='N',
                       help=f'{text} (default: {default})')
    p.add_argument('--json', type=Path, metavar='FILE',
                   help='write everything that was measured')
    return p


def run(argv: Optional[Sequence[str]] = None) -> RuntimeReport:
    """Measure as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(parser().parse_args(argv))
    given['batch'] = tuple(given['batch'])
    return run_runtime_benchmark(RuntimeOptions(**given))


def run_runtime_benchmark(options: RuntimeOptions,
                          console: Optional[Console] = None,
                          progress: bool = True) -> RuntimeReport:
    """Measure, print a table, write the file asked for.

    Args:
        console: where the table goes; standard output by default.
        progress: report steps on stderr.

    Raises:
        MobileOneExtError: a file that cannot be written, or a form that
            predicts otherwise than torch.
    """
    check_writable(options.json)
    report = RuntimeReport(machine('cpu'), sys.argv, options.plain())
    with torch_threads(options.threads):
        _measure(options, report, Steps(progress))
    console = console or PlainConsole(highlight=False)
    console.print(cases_table(options, report.cases))
    for line in lines(report):
        console.print(line)
    if options.json:
        write_json(options.json, report.document())
    return report


def _measure(options: RuntimeOptions, report: RuntimeReport,
             steps: Steps) -> None:
    from .runtime_case import make_forms, measure_case, rounds_of_case
    from .runtime_export import time_export
    from .runtime_network import build_classifier, classifier_config
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with steps.step('export both files'):
            config = classifier_config(options.arch, options.size)
            model = build_classifier(config, options.size)
            forms = make_forms(model, options.size, folder)
        for batch in options.batch:
            with steps.step(f'batch {batch}',
                            total=rounds_of_case(options)) as advance:
                report.cases.append(
                    measure_case(forms, options, batch, advance))
        if options.images:
            (folder / 'export').mkdir()
            with steps.step(f'export with {options.images} images'):
                report.export = time_export(
                    model, config, options.size, options.images,
                    options.threads, folder / 'export')


def cases_table(options: RuntimeOptions,
                cases: Sequence[RuntimeCase]) -> Table:
    """One row a batch: medians in ms, and throughput by torch's."""
    size = options.size
    table = Table(title=f'{options.arch}, {size} x {size}, '
                  f'{options.threads} threads, median of {options.rounds} '
                  'rounds in turns', title_justify='left')
    table.add_column('batch', justify='right')
    for form in FORMS:
        table.add_column(f'{form} ms', justify='right')
    for form in list(FORMS)[1:]:
        table.add_column(f'{form} / torch', justify='right')
    for case in cases:
        times = (f'{case.median_ms(form):.1f}' for form in FORMS)
        ratios = (f'{case.ratio(form):.2f}x' for form in list(FORMS)[1:])
        table.add_row(str(case.batch), *times, *ratios)
    return table


def lines(report: RuntimeReport) -> list[str]:
    """What the columns are, the least ratio, and the export's time."""
    found = [f'{form}: {what}' for form, what in FORMS.items()]
    found.append('fp32 / torch, fp16 / torch: throughput by that of torch')
    worst = min(report.cases, key=lambda case: case.ratio('fp32'))
    found.append(f'least fp32 / torch: {worst.ratio("fp32"):.2f}x at batch '
                 f'{worst.batch}')
    if report.export:
        found.append(_export_line(report.export))
    return found


def _export_line(export: ExportTime) -> str:
    steps = ', '.join(f'{name} {t:.1f}' for name, t in export.steps.items())
    return (f'whole export, verified on {export.images} images: '
            f'{export.seconds:.1f} s, Python\'s start included ({steps})')
