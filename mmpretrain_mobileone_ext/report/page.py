"""Write a report as one page without outside resources, and as JSON."""
from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..atomic_file import write_whole
from ..errors import MobileOneExtError
from ..figures import bracket, confidence, interval_of
from ..outside_text import shown
from . import wording
from .data import ReportData, plain
from .depth import drift_plot, ranges_plot
from .headline import headline
from .pareto import pareto_plot, search_plot

PAGE, FIGURES = 'report.html', 'report.json'
_TEMPLATES = Path(__file__).with_name('templates')
_FILTERS: dict[str, Callable[[Any], str]] = {
    name: getattr(wording, name)
    for name in ('percent', 'points', 'size', 'decibel', 'count', 'small',
                 'magnitude')
}


def write_report(data: ReportData, out: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into ``out``.

    Both hold the same figures. The page loads nothing: styles, pictures and
    images are inside.

    Args:
        data: at least one form.
        out: folder, made if missing; files of these names are replaced.

    Returns:
        The page.

    Raises:
        MobileOneExtError: there is no form, or the disk refuses; old files
            are then in place.
    """
    if not data.forms:
        raise MobileOneExtError('a report needs at least one form')
    page, figures = render(data), to_json(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MobileOneExtError(f'{out}: cannot make the folder: '
                                f'{error}') from error
    # JSON spells half of a surrogate pair as Python does.
    write_whole(out / FIGURES, partial(Path.write_bytes, data=figures.encode(
        errors='backslashreplace')))
    return write_whole(out / PAGE,
                       lambda made: made.write_text(page, encoding='utf-8'))


def to_json(data: ReportData) -> str:
    """All figures of a report; sizes in bytes, shares in percent."""
    verdict = headline(data)
    document = {
        'verdict': {'level': verdict.level, 'sentence': verdict.sentence,
                    'form': verdict.form},
        'files_tried': len(data.tried),
        **plain(data),
        'accuracy': verdict.accuracy and verdict.accuracy.to_dict()
    }
    return json.dumps(document, indent=2, allow_nan=False,
                      ensure_ascii=False) + '\n'


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
        lstrip_blocks=True)
    env.filters.update(_FILTERS, data_uri=_data_uri, ends=_ends)
    pictures = dict(
        pareto=pareto_plot(data),
        searched=search_plot(data),
        drift=drift_plot(data.drift),
        ranges=ranges_plot(data.weight_ranges))
    return env.get_template('report.html.j2').render(
        data=data,
        verdict=headline(data),
        confidence=confidence(),
        style=Markup((_TEMPLATES / 'report.css').read_text('utf-8')),
        **{k: v and Markup(v) for k, v in pictures.items()})


def _visible(value: Any) -> Any:
    """Text of the page; pictures and the style sheet are Markup."""
    return shown(value, keep='\n\t') if type(value) is str else value


def _ends(value: float, images: int) -> str:
    ends = interval_of(value, images)
    return '' if ends is None else bracket(*ends)


def _data_uri(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'
