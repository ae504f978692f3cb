"""Throughput of the reference runtime against torch, and the time of a whole export.

``tools/benchmark_runtime.py``: every form runs the same batches in turns in one process. The export
is timed as a user calls it, in a process of its own.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Optional

import torch
from mmengine.config import Config
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ...coreml.convert import INPUT, PROBABILITIES
from ...coreml.runtime.load import LoadedProgram, load_program
from ...errors import ExportError
from ...export.network import prepare
from ...exporter import export_coreml
from ...models.preprocessing import Preprocessing, read_preprocessing
from ...utils.files import check_writable, write_json
from ...utils.machine import machine, torch_threads
from ...utils.parity import TOLERANCES, compare
from ...utils.processes import run_child
from ...utils.text import PlainConsole, Steps, figures_table, own_command
from ..console.benchmarks import runtime_parser
from . import paired_ratio, time_in_turns
from .fake_data import CLASSES, build_classifier, classifier_config, random_images
from .runtime_options import RuntimeOptions

#: What is timed, for people; the first is what the others are divided by.
FORMS = {
    'torch': 'the folded network in eager torch, as it is exported',
    'fp32': 'reference runtime on the fp32 file',
    'fp16': 'reference runtime on the fp16 file, rounding to fp16',
}


Forms = Mapping[str, Callable[[Tensor], Tensor]]
Advance = Callable[[int], Any]
_SIDE = 256
_STEP = re.compile(r'^([a-z][a-z ]*): ([0-9.]+) s$', re.MULTILINE)
_TOOL = (
    'import sys; from mmpretrain_mobileone_ext.commands.cli import guarded; from '
    'mmpretrain_mobileone_ext.commands.export import run; sys.exit(guarded(run))'
)


@dataclass(frozen=True)
class RuntimeCase:
    """All forms at one batch.

    Attributes:
        batch: images at a time.
        times_ms: form to the time of each round, in ms.
    """

    batch: int
    times_ms: dict[str, tuple[float, ...]]

    def median_ms(self, form: str) -> float:
        return median(self.times_ms[form])

    def throughput(self, form: str) -> float:
        """Images a second, by the median."""
        return 1000 * self.batch / self.median_ms(form)

    def ratio(self, form: str) -> float:
        """Throughput by torch's, of a round."""
        return paired_ratio(self.times_ms['torch'], self.times_ms[form]) or 0.0

    def document(self) -> dict[str, Any]:
        return {
            **asdict(self),
            'median_ms': {f: self.median_ms(f) for f in self.times_ms},
            'throughput_ratio': {f: self.ratio(f) for f in self.times_ms},
        }


@dataclass(frozen=True)
class ExportTime:
    """One run of the export tool.

    Attributes:
        images: of the verification.
        seconds: from its start to its end, Python's start included.
        steps: step to seconds, as the tool reports them.
    """

    images: int
    seconds: float
    steps: dict[str, float]


@dataclass
class RuntimeReport:
    """Everything of one run."""

    machine: dict[str, Any]
    command: Sequence[str]
    options: dict[str, Any]
    cases: list[RuntimeCase] = field(default_factory=list)
    export: Optional[ExportTime] = None

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        cases = [case.document() for case in self.cases]
        export = asdict(self.export) if self.export else None
        return dict(vars(self), forms=FORMS, cases=cases, export=export)


def time_export(
    model: nn.Module, config: dict[str, Any], size: int, images: int, threads: int, folder: Path
) -> ExportTime:
    """Run the export tool on a folder of 256 x 256 images.

    Args:
        model: what ``config`` builds, with its weights.
        size: what the images are cropped to, in pixels.
        images: how many there are and are compared on.
        threads: of the tool's torch.
        folder: empty; for images, config, checkpoint and package.

    Raises:
        ExportError: the tool failed; quotes what it said last.
    """
    _write_images(folder / 'data', images)
    _config(config, size, folder / 'data').dump(folder / 'config.py')
    classes = tuple(f'class {i}' for i in range(CLASSES))
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))),
        folder / 'weights.pth',
    )
    out = folder / 'model.mlpackage'
    files = (folder / 'config.py', folder / 'weights.pth', '--out', out)
    command = [sys.executable, '-c', _TOOL, *map(str, files), '--verify-data', str(images)]
    start = time.perf_counter()
    done = run_child(command, env={**os.environ, 'OMP_NUM_THREADS': str(threads)})
    seconds = time.perf_counter() - start
    if done.returncode or not out.exists():
        raise ExportError(f'the timed export failed: {done.stderr[-500:]}')
    steps = {name: float(t) for name, t in _STEP.findall(done.stderr)}
    return ExportTime(images, seconds, steps)


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    pixels = random_images(count, _SIDE).byte().permute(0, 2, 3, 1)
    for i, image in enumerate(pixels.numpy()):
        Image.fromarray(image).save(folder / f'{i:04d}.png')


def _config(model: dict[str, Any], size: int, data: Path) -> Config:
    dataset = dict(
        type='CustomDataset',
        data_root=str(data),
        with_label=False,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CenterCrop', crop_size=size),
            dict(type='PackInputs'),
        ],
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['mmpretrain_mobileone_ext']),
            model=model,
            test_dataloader=dict(batch_size=32, dataset=dataset),
        )
    )


def make_forms(model: nn.Module, size: int, folder: Path) -> Forms:
    """Every form as a function of pixels (N, 3, S, S) to probabilities.

    Args:
        model: classifier in eval mode.
        folder: where files are exported to.
    """
    pre = read_preprocessing(model.get_submodule('data_preprocessor'), 3, (size, size), 'BGR')
    forms = {'torch': _folded(model, pre)}
    for precision in ('fp32', 'fp16'):
        path = export_coreml(
            model,
            out=folder / f'{precision}.mlpackage',
            image_size=size,
            precision=precision,
            classes=[str(i) for i in range(CLASSES)],
        )
        forms[precision] = _runtime(load_program(path, precision))
    return forms


def _folded(model: nn.Module, pre: Preprocessing) -> Callable[[Tensor], Tensor]:
    """The very graph that is exported, mean and softmax included."""
    graph = prepare(model, pre).graph(pre.mean)

    def run(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return graph(pixels)

    return run


def _runtime(program: LoadedProgram) -> Callable[[Tensor], Tensor]:

    def run(pixels: Tensor) -> Tensor:
        found = program.predict_batch({INPUT: pixels}, chunk_size=len(pixels))
        return found[PROBABILITIES]

    return run


def measure_case(
    forms: Forms, options: RuntimeOptions, batch: int, advance: Advance = lambda count: None
) -> RuntimeCase:
    """Time every form on one batch, round by round in turns.

    Raises:
        ParityError: a form predicts otherwise, so that its time says nothing.
    """
    pixels = random_images(batch, options.size, seed=1)
    wanted = forms['torch'](pixels)
    for name, form in forms.items():
        bound = TOLERANCES['export-fp32' if name == 'fp32' else 'export-fp16']
        compare(wanted, form(pixels), classes=True).require(bound, f'{name} differs from torch')
    calls = {name: partial(form, pixels) for name, form in forms.items()}
    return RuntimeCase(batch, time_in_turns(calls, options.rounds, options.warmup, advance))


def run(argv: Optional[Sequence[str]] = None) -> RuntimeReport:
    """Measure as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(runtime_parser().parse_args(argv))
    given['batch'] = tuple(given['batch'])
    return run_runtime_benchmark(RuntimeOptions(**given))


def run_runtime_benchmark(
    options: RuntimeOptions, console: Optional[Console] = None, progress: bool = True
) -> RuntimeReport:
    """Measure, print a table, write the file asked for.

    Args:
        console: where the table goes; standard output by default.
        progress: report steps on stderr.

    Raises:
        MobileOneExtError: a file that cannot be written, or a form that predicts otherwise than
            torch.
    """
    check_writable(options.json)
    report = RuntimeReport(machine('cpu'), own_command(), asdict(options))
    with torch_threads(options.threads):
        _measure(options, report, Steps(progress))
    console = console or PlainConsole(highlight=False)
    console.print(cases_table(options, report.cases))
    for line in lines(report):
        console.print(line)
    if options.json:
        write_json(options.json, report.document())
    return report


def _measure(options: RuntimeOptions, report: RuntimeReport, steps: Steps) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with steps.step('export both files'):
            config = classifier_config(options.arch, options.size)
            model = build_classifier(config, options.size)
            forms = make_forms(model, options.size, folder)
        for batch in options.batch:
            with steps.step(f'batch {batch}', options.warmup + options.rounds) as advance:
                report.cases.append(measure_case(forms, options, batch, advance))
        if options.images:
            (folder / 'export').mkdir()
            with steps.step(f'export with {options.images} images'):
                report.export = time_export(
                    model, config, options.size, options.images, options.threads, folder / 'export'
                )


def cases_table(options: RuntimeOptions, cases: Sequence[RuntimeCase]) -> Table:
    """One row a batch: medians in ms, and throughput by torch's."""
    size, names = options.size, list(FORMS)
    table = figures_table(
        [],
        ['batch', *(f'{n} ms' for n in names), *(f'{n} / torch' for n in names[1:])],
        title=f'{options.arch}, {size} x {size}, {options.threads} threads, '
        f'median of {options.rounds} rounds in turns',
    )
    for case in cases:
        times = (f'{case.median_ms(form):.1f}' for form in names)
        ratios = (f'{case.ratio(form):.2f}x' for form in names[1:])
        table.add_row(str(case.batch), *times, *ratios)
    return table


def lines(report: RuntimeReport) -> list[str]:
    """What the columns are, the least ratio, and the export's time."""
    found = [f'{form}: {what}' for form, what in FORMS.items()]
    found.append('fp32 / torch, fp16 / torch: throughput by that of torch')
    worst = min(report.cases, key=lambda case: case.ratio('fp32'))
    found.append(f'least fp32 / torch: {worst.ratio("fp32"):.2f}x at batch {worst.batch}')
    if report.export:
        found.append(_export_line(report.export))
    return found


def _export_line(export: ExportTime) -> str:
    steps = ', '.join(f'{name} {t:.1f}' for name, t in export.steps.items())
    return (
        f'whole export, verified on {export.images} images: '
        f"{export.seconds:.1f} s, Python's start included ({steps})"
    )
