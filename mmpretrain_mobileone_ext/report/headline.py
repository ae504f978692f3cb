"""The one form to recommend, and what a reader should remember."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .data import FormRow, ReportData
from .wording import MINUS, NBSP, TIMES, percent, size, times


@dataclass(frozen=True)
class Tile:
    """A figure, and how it compares with the reference form."""
    label: str
    value: str
    beside: str = ''


@dataclass(frozen=True)
class Headline:
    """The verdict of a report.

    Attributes:
        level: 'good', 'warn' or 'bad'.
        sentence: the verdict.
        detail: what it rests on.
        tiles: the figures behind it.
        form: name of the recommended form, if any.
    """
    level: str
    sentence: str
    detail: str
    tiles: tuple[Tile, ...]
    form: Optional[str] = None


def drop(row: FormRow, reference: Optional[FormRow]) -> Optional[float]:
    """Points of top-1 lost against the reference, or of agreement."""
    if row.top1 is not None and reference is not None and \
            reference.top1 is not None:
        return reference.top1 - row.top1
    return None if row.agreement is None else 100 - row.agreement


def recommended(data: ReportData) -> Optional[FormRow]:
    """``data.chosen``, else the smallest Core ML form within the bound.

    Where none is within it, the one that loses least.
    """
    if data.chosen is not None:
        return data.form(data.chosen)
    reference = data.form(data.reference)
    scored = [(lost, f.size_bytes or 0, f) for f in data.forms
              if f.kind == 'coreml'
              and (lost := drop(f, reference)) is not None]
    within = [s for s in scored if s[0] <= data.max_drop + 1e-9]
    if within:
        return min(within, key=lambda s: (s[1], s[0]))[2]
    return min(scored, key=lambda s: s[:2])[2] if scored else None


def headline(data: ReportData) -> Headline:
    """The verdict on the recommended form."""
    reference, best = data.form(data.reference), recommended(data)
    if best is None:
        shown = reference or data.forms[0]
        return Headline(
            'warn', 'No Core ML file with class scores yet',
            f'Scored on {data.images}: only what runs in torch.',
            _tiles(shown, None), None)
    lost = drop(best, reference)
    unmet = [p for p in data.parity if p.form == best.form and not p.met]
    if lost is None or lost > data.max_drop + 1e-9:
        level = 'bad'
    else:
        level = 'warn' if unmet or data.warnings else 'good'
    return Headline(level, _sentence(data, best, lost),
                    _detail(data, best, reference),
                    _tiles(best, reference), best.form)


def _sentence(data: ReportData, best: FormRow, lost: Optional[float]) -> str:
    name, where = best.file or best.form, size(best.size_bytes)
    if lost is None:
        return f'{name} was not scored'
    if lost > data.max_drop + 1e-9:
        return (f'No Core ML file is within {data.max_drop:g} points: {name} '
                f'loses {lost:.2f}')
    if best.top1 is None:
        return (f'{name} predicts like the network on '
                f'{percent(best.agreement)}{NBSP}% of images, in {where}')
    if round(lost, 2) <= 0:
        return (f'{name} keeps the accuracy: {percent(best.top1)}{NBSP}% '
                f'top-1 in {where}')
    return (f'{name} gives up {lost:.2f} points for its size: '
            f'{percent(best.top1)}{NBSP}% top-1 in {where}')


def _detail(data: ReportData, best: FormRow,
            reference: Optional[FormRow]) -> str:
    if data.chosen is not None:
        rule = 'chosen by the export'
    else:
        rule = (f'the smallest Core ML file that loses at most '
                f'{data.max_drop:g} points')
    against = '' if reference is None or reference.form == best.form else \
        f', against {reference.form}'
    return f'{best.form}, {rule}; scored on {data.images}{against}.'


def _tiles(best: FormRow,
           reference: Optional[FormRow]) -> tuple[Tile, ...]:
    other = None if reference is None or reference.form == best.form \
        else reference
    tiles = [Tile('size', size(best.size_bytes), _smaller(best, other))]
    if best.top1 is not None:
        tiles.insert(0, Tile('top-1', f'{percent(best.top1)}{NBSP}%',
                             _points(best, other)))
    if best.agreement is not None and other is not None:
        tiles.append(Tile('same label', f'{percent(best.agreement)}{NBSP}%',
                          'of images'))
    if best.ops is not None:
        tiles.append(Tile('operations', f'{best.ops}',
                          'in the program' if best.kind == 'coreml' else ''))
    return tuple(tiles)


def _smaller(best: FormRow, other: Optional[FormRow]) -> str:
    if other is None or not other.size_bytes or not best.size_bytes:
        return ''
    return f'{times(other.size_bytes / best.size_bytes)}{NBSP}{TIMES} ' \
        f'smaller than {size(other.size_bytes)}'


def _points(best: FormRow, other: Optional[FormRow]) -> str:
    if other is None or other.top1 is None or best.top1 is None:
        return ''
    change = round(best.top1 - other.top1, 2)
    if change == 0:
        return 'as the network'
    return f'{change:+.2f} points'.replace('-', MINUS)
