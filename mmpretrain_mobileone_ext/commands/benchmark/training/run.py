"""Command line of ``tools/benchmark_training.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Optional

from rich.console import Console

from ....utils.files import check_apart, check_writable, write_json, write_whole
from ....utils.machine import check_device, machine, tf32, torch_threads
from ....utils.text import PlainConsole, Steps, own_command
from ...console.benchmarks import training_parser
from .candidates import choose_forms
from .case import (
    EXACTNESS_NOTE,
    check_arch,
    checked_forms,
    measure_case,
    measure_fitting,
    steps_of_case,
)
from .options import BenchmarkOptions
from .results import ArchExactness, Case, Report
from .step import PEAK_NOTE, SAVED_NOTE, sweep_cases
from .table import (
    costs_table,
    exactness_table,
    setting,
    sweep_lines,
    sweep_table,
    write_cost_plot,
    write_sweep_plot,
)

FIRST_NOTE = (
    'first: the first step, with what it compiles and chooses; forms ran in the order of the '
    'rows, and what one compiled (or an earlier run left in a cache on disk) serves the next'
)
#: Where nobody's terminal sets one.
_WIDTH = 120


def run_benchmark(
    options: BenchmarkOptions, console: Optional[Console] = None, progress: bool = True
) -> Report:
    """Measure as ``options`` say, print tables, write the files asked for.

    The JSON file is rewritten after every case, so that a run that is cut short leaves what it had
    found.

    Args:
        options: what to run.
        console: where tables go; standard output by default.
        progress: report steps on stderr.

    Raises:
        SpecError: a device or a form that is not there.
        MobileOneExtError: a file that cannot be written.
    """
    check_device(options.device)
    for path in (options.json, options.plot):
        check_writable(path)
    forms, note = choose_forms(options)
    with torch_threads(options.threads), tf32(options.tf32) as allowed:
        where = dict(machine(options.device), tf32=allowed)
        report = Report(where, own_command(), asdict(options), [note] if note else [], [], [])
        run = _Run(options, forms, report, console or _console(), Steps(progress))
        run.sweep() if options.sweep else run.compare()
    return report


def _console() -> Console:
    console = PlainConsole(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    return console


@dataclass(frozen=True)
class _Run:
    """What measuring, showing and storing share."""

    options: BenchmarkOptions
    forms: Sequence[str]
    report: Report
    console: Console
    steps: Steps

    def compare(self) -> None:
        """All forms at the cases asked for; a table a case."""
        self._head()
        for case in self._cases():
            if case.costs:
                self.console.print(costs_table(case))
            self._lines(case.notes)
        self._lines([SAVED_NOTE, PEAK_NOTE, FIRST_NOTE])
        for found in self._exactness():
            self.console.print(exactness_table(found, self.options.amp))
        self._plot()

    def sweep(self) -> None:
        """Two forms over a grid; one table."""
        self._head()
        cases = list(self._sweep())
        reference, form = self.forms
        self.console.print(sweep_table(cases, form, reference))
        for found in self._exactness():
            self.console.print(exactness_table(found, self.options.amp))
        self._lines([SAVED_NOTE, *sweep_lines(cases, form, reference)])
        self._plot()

    def _head(self) -> None:
        self._lines([setting(self.options, self.report.machine), *self.report.notes])

    def _lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def _measure(self, arch: str, batch: int, size: int, together: bool = False) -> Case:
        title = Case(arch, batch, size).title
        total = steps_of_case(self.options, self.forms, batch, size)
        with self.steps.step(title, total) as advance:
            return measure_case(self.options, self.forms, arch, batch, size, advance, together)

    def _measure_fitting(self, arch: str, batch: int, size: int) -> Case:
        def measure(taken: int) -> Case:
            return self._measure(arch, taken, size, together=True)

        return measure_fitting(measure, batch)

    def _cases(self) -> Iterator[Case]:
        # A CPU's memory is that of all programs: there a form fails for itself.
        measure = self._measure if self.options.device == 'cpu' else self._measure_fitting
        for case in self.options.cases():
            yield self._stored(measure(*case))

    def _sweep(self) -> Iterator[Case]:
        for case in sweep_cases(self.options, self._measure):
            yield self._stored(case)

    def _stored(self, case: Case) -> Case:
        self.report.cases.append(case)
        self._write()
        return case

    def _exactness(self) -> Iterator[ArchExactness]:
        forms = checked_forms(self.forms)
        if not (self.options.check and forms):
            return
        for arch in self.options.arch or ():
            total = len(forms) * self.options.seeds
            with self.steps.step(f'{arch}, exactness', total) as advance:
                found = check_arch(self.options, forms, arch, advance)
            self.report.exactness.append(found)
            self._write()
            yield found
        self._lines([EXACTNESS_NOTE])

    def _write(self) -> None:
        if self.options.json:
            write_json(self.options.json, self.report.document())

    def _plot(self) -> None:
        path, cases = self.options.plot, self.report.cases
        if path is None or not any(case.costs for case in cases):
            return
        caption = setting(self.options, self.report.machine)
        if self.options.sweep:
            reference, form = self.forms
            write_whole(path, lambda made: write_sweep_plot(made, cases, form, reference, caption))
        else:
            write_whole(path, lambda made: write_cost_plot(made, cases, caption))


def run(argv: Optional[Sequence[str]] = None) -> Report:
    """Measure as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(training_parser().parse_args(argv))
    check_apart({'--json': given['json'], '--plot': given['plot']}, {})
    listed = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return run_benchmark(BenchmarkOptions(**{**given, **listed}))
