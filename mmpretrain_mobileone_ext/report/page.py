"""Write a report as one page without outside resources, and as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..errors import MobileOneExtError
from ..utils.accuracy import DEFAULT_DROP, Loss, Verdict
from ..utils.files import write_whole
from ..utils.text import (
    NBSP,
    TIMES,
    bracket,
    confidence,
    count,
    counted,
    decibel,
    interval_of,
    magnitude,
    percent,
    points,
    shown,
    size,
    small,
    times,
    worth,
)
from .data import FormRow, ReportData, plain
from .engine import time_caveat
from .plots.page_plots import drift_plot, ranges_plot
from .plots.pareto import pareto_plot, search_plot

PAGE, FIGURES = 'report.html', 'report.json'
_TEMPLATES = Path(__file__).with_name('templates')
_FILTERS: dict[str, Callable[[Any], str]] = {
    figure.__name__: figure for figure in (percent, points, size, decibel, count, small, magnitude)
}


def write_report(data: ReportData, out: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into ``out``.

    Both hold the same figures. The page loads nothing: styles, pictures and images are inside.

    Args:
        data: at least one form.
        out: folder, made if missing; files of these names are replaced.

    Returns:
        The page.

    Raises:
        MobileOneExtError: there is no form, or the disk refuses; old files are then in place.
    """
    if not data.forms:
        raise MobileOneExtError('a report needs at least one form')
    page, figures = render(data), to_json(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MobileOneExtError(f'{out}: cannot make the folder: {error}') from error
    # JSON spells half of a surrogate pair as Python does.
    coded = figures.encode(errors='backslashreplace')
    write_whole(out / FIGURES, lambda made: made.write_bytes(coded))
    return write_whole(out / PAGE, lambda made: made.write_text(page, encoding='utf-8'))


def to_json(data: ReportData) -> str:
    """All figures of a report; sizes in bytes, shares in percent."""
    verdict = headline(data)
    document = {
        'verdict': {'level': verdict.level, 'sentence': verdict.sentence, 'form': verdict.form},
        'files_tried': len(data.tried),
        **plain(data),
        'accuracy': verdict.accuracy and verdict.accuracy.to_dict(),
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + '\n'


def render(data: ReportData) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(_FILTERS, data_uri=_data_uri, ends=_ends)
    pictures = dict(
        pareto=pareto_plot(data),
        searched=search_plot(data),
        drift=drift_plot(data.drift),
        ranges=ranges_plot(data.weight_ranges),
    )
    return env.get_template('report.html.j2').render(
        data=data,
        verdict=headline(data),
        confidence=confidence(),
        engine_caveat=time_caveat(),
        style=Markup((_TEMPLATES / 'report.css').read_text('utf-8')),
        **{k: v and Markup(v) for k, v in pictures.items()},
    )


def _visible(value: Any) -> Any:
    """Text of the page; pictures and the style sheet are Markup."""
    return shown(value, keep='\n\t') if type(value) is str else value


def _ends(value: float, images: int) -> str:
    ends = interval_of(value, images)
    return '' if ends is None else bracket(*ends)


def _data_uri(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


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
        accuracy: the verdict on it, where it was scored.
    """

    level: str
    sentence: str
    detail: str
    tiles: tuple[Tile, ...]
    form: Optional[str] = None
    accuracy: Optional[Verdict] = None


def drop(row: FormRow, baseline: Optional[FormRow]) -> Optional[float]:
    """Points of top-1 lost against the baseline, or of agreement."""
    if row.top1 is not None and baseline is not None and baseline.top1 is not None:
        return baseline.top1 - row.top1
    if row.agreement is None:
        return None
    before = None if baseline is None else baseline.agreement
    return (100.0 if before is None else before) - row.agreement


def recommended(data: ReportData) -> Optional[FormRow]:
    """``data.chosen``, else the smallest Core ML form within the bound.

    Where none is within it, the one that loses least.
    """
    if data.chosen is not None:
        return data.form(data.chosen)
    baseline = data.baseline_form
    scored = [
        (lost, f.size_bytes or 0, f)
        for f in data.forms
        if f.kind == 'coreml' and (lost := drop(f, baseline)) is not None
    ]
    within = [s for s in scored if s[0] <= data.max_drop + 1e-9]
    if within:
        return min(within, key=lambda s: (s[1], s[0]))[2]
    return min(scored, key=lambda s: s[:2])[2] if scored else None


def verdict_of(data: ReportData, best: FormRow) -> Optional[Verdict]:
    """Its maker's verdict, else that of the images of the report."""
    if data.accuracy is not None and best.form == data.chosen:
        return data.accuracy
    if best.lost is None or best.gained is None or best.agreement is None:
        return None
    base = data.baseline_form
    return Verdict(
        Loss(best.lost, best.gained, data.num_images),
        data.max_drop,
        'of this page',
        changed=_changed(best, data),
        changed_before=0 if base is None else _changed(base, data),
        labelled=best.top1 is not None,
    )


def _changed(row: FormRow, data: ReportData) -> int:
    share = 100.0 if row.agreement is None else row.agreement
    return round((100 - share) / 100 * data.num_images)


def headline(data: ReportData) -> Headline:
    """The verdict on the recommended form.

    'good' only where the whole interval of what it loses is within the bound; 'bad' where more is
    lost on the images; else 'warn'.
    """
    reference, best = data.form(data.reference), recommended(data)
    if best is None:
        shown = reference or data.forms[0]
        return Headline(
            'warn',
            'No Core ML file with class scores yet',
            f'Scored on {data.images}: only what runs in torch.',
            _tiles(shown, None, None, data),
        )
    found = verdict_of(data, best)
    unmet = [p for p in data.parity if p.form == best.form and not p.met]
    level = 'bad' if found is None else found.level
    if level == 'good' and (unmet or data.warnings):
        level = 'warn'
    return Headline(
        level, *_in_words(data, best, found), _tiles(best, reference, found, data), best.form, found
    )


def _in_words(data: ReportData, best: FormRow, found: Optional[Verdict]) -> tuple[str, str]:
    """The verdict, and what it rests on.

    Where nobody asked for a bound, the accuracy comes first, unless too much of it is lost.
    """
    said, detail = _sentence(data, best, found), _detail(data, best, found)
    asked = data.accuracy is not None or data.max_drop != DEFAULT_DROP
    if asked or found is None or found.beyond or best.top1 is None:
        return said, detail
    return _accuracy(best, data.num_images), f'{said}. {detail}'


def _accuracy(row: FormRow, images: int) -> str:
    """How many images a form gets right, for people."""
    value = row.top1 or 0.0
    low, high = interval_of(value, images) or (0.0, 100.0)
    return (
        f'{count(round(value / 100 * images))} of {counted(images, "test image")} right '
        f'({value:.1f}{NBSP}%), {confidence()} interval {low:.1f} to {high:.1f}{NBSP}%'
    )


def _sentence(data: ReportData, best: FormRow, found: Optional[Verdict]) -> str:
    name, where = best.file or best.form, size(best.size_bytes)
    if found is None:
        return f'{name} was not scored'
    if found.level != 'good':
        return _doubt(data, name, found)
    if not found.labelled:
        return (
            f'{name} predicts like the network on '
            f'{percent(best.agreement)}{NBSP}% of images, in {where}'
        )
    accuracy = f'{percent(best.top1)}{NBSP}% top-1 in {where}'
    if round(found.loss.points, 2) <= 0:
        return f'{name} keeps the accuracy: {accuracy}'
    return f'{name} gives up {found.loss.points:.2f} points for its size: {accuracy}'


def _doubt(data: ReportData, name: str, found: Verdict) -> str:
    """What is wrong, or what nobody can know from so few images."""
    lost, images = found.loss, f'{found.loss.images} images'
    if found.beyond and data.chosen is None:
        return f'No Core ML file is within {found.bound:g} points: {name} loses {lost.points:.2f}'
    if found.beyond:
        other = 'other ' if found.judged_apart else ''
        return (
            f'{name} loses {lost.points:.2f} points on {other}{images}; '
            f'the bound is {found.bound:g}'
        )
    if found.restless:
        return (
            f'{name} changes {found.changed} of {lost.images} labels, '
            f'though it loses {points(lost.points)} points'
        )
    return (
        f'{images} are too few to hold {name} to {found.bound:g} points: it loses '
        f'{points(lost.points)}, but up to {lost.high:.2f} cannot be excluded'
    )


def _detail(data: ReportData, best: FormRow, found: Optional[Verdict]) -> str:
    rule = _rule(data, found)
    base = data.baseline_form
    against = '' if base is None or base.form == best.form else f', against {base.form}'
    said = f'{best.form}{rule}; scored on {data.images}{against}; {worth(data.num_images)}.'
    if found is None or not data.candidates:
        return said
    if found.judged_apart:
        passed = sum(c.fits and bool(c.note) for c in data.candidates)
        over = f', where {passed} smaller files failed' if passed else ''
        return (
            f'{said} It was chosen on {data.chosen_images} of them and '
            f'judged on the other {found.loss.images}{over}.'
        )
    return (
        f'{said} It was chosen on the images that judge it, which '
        'flatters it: there are too few to judge it on others.'
    )


def _rule(data: ReportData, found: Optional[Verdict]) -> str:
    """Why this file of several; nothing where it is the only one."""
    if data.chosen is not None:
        return ', chosen by the export'
    if sum(form.kind == 'coreml' for form in data.forms) < 2:
        return ''
    if found is not None and found.beyond:
        return ', the Core ML file that loses least'
    return f', the smallest Core ML file that loses at most {data.max_drop:g} points'


def _tiles(
    best: FormRow, reference: Optional[FormRow], found: Optional[Verdict], data: ReportData
) -> tuple[Tile, ...]:
    other = None if reference is None or reference.form == best.form else reference
    tiles = [Tile('size', size(best.size_bytes), _smaller(best, other))]
    if found is not None:
        tiles.insert(
            0,
            Tile(
                'points lost',
                points(found.loss.points),
                f'{confidence()}: {points(found.loss.low)} to '
                f'{points(found.loss.high)}, bound {found.bound:g}',
            ),
        )
    if best.top1 is not None:
        tiles.insert(0, Tile('top-1', f'{percent(best.top1)}{NBSP}%', _range(best)))
    if best.agreement is not None and other is not None:
        changed = _changed(best, data)
        tiles.append(
            Tile(
                'same label',
                f'{percent(best.agreement)}{NBSP}%',
                f'{changed} of {data.num_images} differ',
            )
        )
    if best.ops is not None:
        tiles.append(
            Tile('operations', f'{best.ops}', 'in the program' if best.kind == 'coreml' else '')
        )
    return tuple(tiles)


def _range(row: FormRow) -> str:
    if row.top1_low is None or row.top1_high is None:
        return ''
    return f'{confidence()}: {row.top1_low:.1f} to {row.top1_high:.1f}'


def _smaller(best: FormRow, other: Optional[FormRow]) -> str:
    if other is None or not other.size_bytes or not best.size_bytes:
        return ''
    return (
        f'{times(other.size_bytes / best.size_bytes)}{NBSP}{TIMES} '
        f'smaller than {size(other.size_bytes)}'
    )
