"""Results as tables and lines, for a terminal or a log."""
from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Optional

from rich.table import Table

from .options import BenchmarkOptions
from .results import ArchExactness, Case, Cost, Exactness
from .sweep import rated

ABSENT = '-'


def setting(options: BenchmarkOptions, machine: dict[str, Any]) -> str:
    """One line on where and how it was measured."""
    where = machine['gpu'] or machine['cpu']
    precision = f'autocast {options.amp}' if options.amp else 'float32'
    return (f'{where}, {machine["cores"]} cores, {options.threads} threads, '
            f'torch {machine["versions"].get("torch")}, {options.device}, '
            f'{precision}, median of {options.steps} steps in turns'
            + (', more for small inputs' if options.sweep else ''))


def milliseconds(value: Optional[float]) -> str:
    """Three digits or all before the point."""
    if value is None:
        return ABSENT
    return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}'


def megabytes(count: Optional[int]) -> str:
    """Bytes as MB (1e6)."""
    if count is None:
        return ABSENT
    return f'{count / 1e6:.{0 if count >= 100e6 else 1}f}'


def _times(value: Optional[float]) -> str:
    return ABSENT if value is None else f'{value:.2f}x'


def _error(value: Optional[float]) -> str:
    return ABSENT if value is None else f'{value:.1e}'


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify='left')
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify='right')
    return table


def costs_table(case: Case) -> Table:
    """One row a form; times in ms, speed against the first that ran."""
    reference = next((c.form for c in case.costs if c.step_ms), None)
    against = f', speed against {reference}' if reference else ''
    table = _table(f'{case.title}: one training step{against}', ['form'], [
        'step ms', 'min', 'fwd', 'bwd', 'first', 'speed', 'saved MB',
        'peak MB'
    ])
    for cost in case.costs:
        table.add_row(cost.form, *_cost_cells(case, cost, reference))
    return table


def _cost_cells(case: Case, cost: Cost,
                reference: Optional[str]) -> list[str]:
    if cost.failure:
        return [cost.failure, *[ABSENT] * 7]
    ratio = case.ratio(reference, cost.form) if reference else None
    return [
        milliseconds(cost.median_ms),
        milliseconds(min(cost.step_ms)),
        milliseconds(median(cost.forward_ms)),
        milliseconds(median(cost.backward_ms)),
        milliseconds(cost.first_ms),
        _times(ratio),
        megabytes(cost.saved_bytes),
        megabytes(cost.peak_bytes)
    ]


def exactness_table(found: ArchExactness, amp: Optional[str]) -> Table:
    """One row a form: float64 agreements and gradient errors."""
    names = ['output', 'input grad', 'param grads', 'statistics',
             'fp32 grad error']
    if amp:
        names.append(f'{amp} grad error')
    seeds = max((len(f.output) for f in found.forms), default=0)
    table = _table(f'{found.title}: exactness, {seeds} seeds', ['form'],
                   names)
    for form in found.forms:
        cells = _exactness_cells(form)
        table.add_row(form.form, *cells[:len(names)])
    return table


def _exactness_cells(found: Exactness) -> list[str]:
    if found.failure:
        return [found.failure, *[ABSENT] * 5]
    agreements = (found.output, found.input_gradient, found.gradients,
                  found.statistics)
    errors = (found.fp32_error, found.amp_error)
    return [
        *(_error(_worst(values)) for values in agreements),
        *(_error(median(values) if values else None) for values in errors)
    ]


def _worst(values: Sequence[float]) -> float:
    """The largest; a NaN, which max() may hide, is worse than any."""
    bad = [v for v in values if v != v]
    return bad[0] if bad else max(values)


def sweep_table(cases: Sequence[Case], form: str, reference: str) -> Table:
    """One row a case: both medians, and their pairwise ratio."""
    table = _table(f'{form} against {reference}', ['arch'], [
        'batch', 'size', f'{reference} ms', f'{form} ms',
        f'{form} / {reference}', f'{reference} MB', f'{form} MB'
    ])
    for case in cases:
        table.add_row(case.arch, str(case.batch), str(case.size),
                      *_sweep_cells(case, form, reference))
    return table


def _sweep_cells(case: Case, form: str, reference: str) -> list[str]:
    if case.skipped:
        return ['skipped', *[ABSENT] * 4]
    costs = [case.cost(reference), case.cost(form)]
    times = [c.failure or milliseconds(c.median_ms) for c in costs if c]
    ratio = case.ratio(form, reference)
    return [
        *times, ABSENT if ratio is None else f'{ratio:.2f}',
        *(megabytes(c.saved_bytes) for c in costs if c)
    ]


def sweep_lines(cases: Sequence[Case], form: str,
                reference: str) -> list[str]:
    """What was skipped and why, and where the ratio is worst and best."""
    lines = [f'skipped {c.title}: {c.skipped}' for c in cases if c.skipped]
    ranking = rated(cases, form, reference)
    if not ranking:
        return [*lines, 'no case ran in both forms']
    for name, (ratio, case) in (('worst', ranking[0]), ('best', ranking[-1])):
        lines.append(f'{name} ratio: {ratio:.2f} at {case.title}')
    slower = sum(ratio > 1 for ratio, _ in ranking)
    lines.append(f'{form} is slower than {reference} in {slower} of '
                 f'{len(ranking)} cases')
    return lines
