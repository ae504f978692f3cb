"""What a check found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Optional

from ....utils.text import DASH, markdown, markdown_table
from .. import paired_ratio
from ..training.table import arithmetic

Document = Mapping[str, Any]
_HEADS = (
    *('', 'images', 'mmpretrain ms', 'branches ms', '`auto` ms', 'speed', 'folded, speed'),
    *('mmpretrain compiled ms', '`auto` compiled ms', 'speed'),
    *('peak MB, mmpretrain', 'peak MB, `auto`'),
)


def page(
    machine: Document, parts: Sequence[Document], checks: Document, speed: Sequence[Document]
) -> str:
    """Where it ran, what was compared, times, and what is missing.

    Args:
        machine: as of ``utils.machine.machine``.
        parts: name and state of each.
        checks: by name, what the comparing parts wrote, or None.
        speed: what the timing parts wrote.
    """
    versions = machine['versions']
    where = f'{machine["gpu"] or machine["cpu"]}, torch {versions.get("torch")}'
    sections = [f'{markdown(where)}.\n']
    sections += [_comparisons(name, found) for name, found in checks.items() if found]
    for precision in dict.fromkeys(_precision(s) for s in speed):
        sections.append(_times(precision, [s for s in speed if _precision(s) == precision]))
    missing = [f'- {markdown(p["name"])}: {markdown(p["state"])}\n' for p in parts]
    missing = [line for line, p in zip(missing, parts) if p['state'] != 'done']
    sections.append(''.join(missing))
    return '\n'.join(s for s in sections if s)


def _comparisons(name: str, found: Document) -> str:
    rows = [*found['findings'], *found['operators']]
    failed = sum(not row['passed'] for row in rows)
    done = f'{found["done"]} of {found["total"]} checks'
    text = f'{name.capitalize()}: {done}, {len(rows)} comparisons, {failed} failed.\n'
    groups: dict[tuple[str, str], list[float]] = {}
    for row in found['findings']:
        if row['error'] is not None and row['branches']:
            key = row['precision'], row['quantity']
            groups.setdefault(key, []).append(row['error'] / row['branches'])
    cells = [[*key, f'{median(r):.2f}', f'{max(r):.2f}'] for key, r in groups.items()]
    heads = ('arithmetic', 'quantity', 'error by that of branches, median', 'worst')
    return f'{text}\n{markdown_table(heads, cells, "llrr")}' if cells else text


def _precision(speed: Document) -> str:
    options, tf32 = speed['options'], speed['machine']['tf32']
    return arithmetic(options['device'], options['amp'], options['channels_last'], tf32)


def _times(precision: str, speed: Sequence[Document]) -> str:
    options = speed[0]['options']
    lines = (
        f'{precision}, {options["size"][0]}² pixels, medians of {options["steps"]} steps in turns; '
        'speed: against mmpretrain, of compiled `auto` against `auto`, the median of the ratios in '
        'each turn.\n'
    )
    cases = [case for s in speed for case in s['cases'] if case['costs']]
    archs = dict.fromkeys(case['arch'] for case in cases)
    rows = [_row(arch, [c for c in cases if c['arch'] == arch]) for arch in archs]
    if not rows:
        return ''
    table = markdown_table(_HEADS, rows, 'l' + 'r' * (len(_HEADS) - 1))
    # Its heads name arguments.
    return f'{lines}\n{table}'.replace(r'\`', '`')


def _row(arch: str, cases: Sequence[Document]) -> list[str]:
    # A compiled form's case measures fewer forms, maybe with another batch.
    first = cases[0]
    alike = [c for c in cases if c['batch'] == first['batch']]
    twice = _case_of(cases, 'auto compiled')
    return [
        arch.upper(),
        str(first['batch']),
        *(_ms(first, form) for form in ('mmpretrain', 'branches', 'auto')),
        _speed(first, 'auto', 'mmpretrain'),
        _speed(first, 'folded', 'mmpretrain'),
        *(_ms(_case_of(alike, f), f) for f in ('mmpretrain compiled', 'auto compiled')),
        _speed(twice, 'auto compiled', 'auto'),
        *(_peak(first, form) for form in ('mmpretrain', 'auto')),
    ]


def _case_of(cases: Sequence[Document], form: str) -> Document:
    """The first case in which a form ran; an empty one if none."""
    return next((c for c in cases if _cost(c, form)), dict(costs=()))


def _cost(case: Document, form: str) -> Optional[Document]:
    return next((c for c in case['costs'] if c['form'] == form), None)


def _ms(case: Document, form: str) -> str:
    cost = _cost(case, form)
    if cost is None or cost['median_ms'] is None:
        return DASH
    return f'{cost["median_ms"]:.1f}'


def _speed(case: Document, form: str, reference: str) -> str:
    ours, theirs = _cost(case, form), _cost(case, reference)
    ratio = paired_ratio(theirs['step_ms'], ours['step_ms']) if ours and theirs else None
    return DASH if ratio is None else f'{ratio:.2f}'


def _peak(case: Document, form: str) -> str:
    cost = _cost(case, form)
    return DASH if cost is None or cost['peak_bytes'] is None else f'{cost["peak_bytes"] / 1e6:.0f}'
