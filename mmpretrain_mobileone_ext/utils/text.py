"""Text and figures for people: safe from outside names, the same everywhere.

Names of classes, files, variants, layers and options come from people who may mean no good, or who
just like brackets. Whoever puts such text into a terminal, a table, a picture or a command does it
through this module; configs have :mod:`config`, Swift has ``coreml.swift``. Numbers are written
here too, and :class:`Steps` tells how far a tool has come.
"""

from __future__ import annotations

import builtins
import csv
import difflib
import io
import math
import numbers
import os
import re
import shlex
import string
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from .accuracy import CONFIDENCE, wilson

DASH, TIMES, MINUS = '\u2013', '\u00d7', '\u2212'
#: Between a number and its unit: no line ends there.
NBSP = '\u00a0'
#: Controls (with escape sequences), invisible marks (with those that turn the direction of
#: writing), halves of surrogate pairs, line separators.
_INVISIBLE = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')
#: Joiners, without which Persian or Hindi is misspelled.
_JOINERS = '\u200c\u200d'
#: What a spreadsheet takes for the beginning of a formula, and the forms of them that Japanese ones
#: take for the same.
_FORMULA = ('=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20')
_MARKDOWN = re.compile(r'[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])|:(?=//)')
_PLAIN_CODE = re.compile(r"[\w ./,:;+=()\[\]'#%@-]+", re.ASCII)


def shown(text: Any, keep: str = '') -> str:
    """One visible line: what is invisible is written as Python escapes it.

    Args:
        text: anything, by its ``str``.
        keep: characters that stay, such as line ends.
    """
    line = str(text)
    if line.isprintable():
        return line
    return ''.join(
        c
        if c in keep or c in _JOINERS or unicodedata.category(c) not in _INVISIBLE
        else c.encode('unicode_escape').decode()
        for c in line
    )


def one_line(said: Any, limit: int = 300) -> str:
    """Text on one line of ``limit`` characters, ``...`` where it is cut.

    Args:
        said: anything, by its ``str``; an exception is led by its type.
        limit: characters that are kept.
    """
    kind = f'{type(said).__name__}: ' if isinstance(said, BaseException) else ''
    # Messages may hold a whole tensor or file: no more of them is looked at than may count.
    line = ' '.join(f'{kind}{said}'[: 8 * limit].split())
    return line if len(line) <= limit else f'{line[:limit]}...'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with what is nearest to ``word``, '' where nothing is near.

    Args:
        word: what was given; the last part of dotted ones counts first.
        known: what there is.
    """
    names = list(known)
    end = _end(word)
    words = set(end.split('_'))
    for near in (
        [name for name in names if _end(name) == end],
        [name for name in names if words < set(_end(name).split('_'))],
        difflib.get_close_matches(word, names),
        [name for name in names if difflib.get_close_matches(end, [_end(name)])],
    ):
        if near:
            return f'; did you mean {difflib.get_close_matches(word, near, 1, 0)[0]}?'
    return ''


def _end(dotted: str) -> str:
    return dotted.rpartition('.')[2]


class PlainConsole(Console):
    """A console to which markup, emoji codes and escapes are just text.

    A pipe gets plain lines, though ``FORCE_COLOR`` is set, as Jupyter sets it for what it starts:
    lines that are drawn again and again would fill its page.
    """

    def __init__(self, **options: Any):
        stream = options.get('file') or (sys.stderr if options.get('stderr') else sys.stdout)
        # Within a notebook rich draws by widgets.
        if not hasattr(builtins, '__IPYTHON__') and not (stream and stream.isatty()):
            options.setdefault('force_terminal', False)
        super().__init__(**{**options, 'markup': False, 'emoji': False})

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of :func:`shown` text; also of titles and cells."""
        options.update(markup=False, emoji=False)
        return super().render_str(shown(text, keep='\n'), **options)


def print_path(path: Any) -> None:
    """Print a path: visible on a terminal, else exactly, for scripts."""
    if sys.stdout.isatty():
        print(shown(path))
        return
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(os.fsencode(Path(path)) + b'\n')
    except AttributeError:  # a stream that is not the process's own
        print(shown(path))


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, in which no spreadsheet finds a formula.

    Numbers stay what they are. Text that would be one is led by a single quote, as OWASP advises.
    """
    text = io.StringIO()
    csv.writer(text).writerows([_csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, numbers.Number):
        return value
    line = shown(value)
    return f"'{line}" if line.lstrip().startswith(_FORMULA) else line


def markdown(text: Any) -> str:
    """Text for a cell of a Markdown table or within a line."""
    return _MARKDOWN.sub(r'\\\g<0>', shown(text))


def markdown_code(text: Any) -> str:
    """Text in the type of code, in Markdown."""
    line = shown(text)
    if _PLAIN_CODE.fullmatch(line) and line == line.strip():
        return f'`{line}`'
    # References to characters are never syntax, in tables neither.
    unsafe = {*string.punctuation, ' '}
    return f'<code>{"".join(f"&#{ord(c)};" if c in unsafe else c for c in line)}</code>'


def markdown_table(heads: Sequence[Any], rows: Iterable[Sequence[Any]], align: str) -> str:
    """A Markdown table, line ends included.

    Args:
        heads: of the columns.
        rows: their cells.
        align: 'l' or 'r' for each column.
    """
    rule = '|' + ''.join('---:|' if side == 'r' else '---|' for side in align)
    lines = ['| ' + ' | '.join(map(markdown, row)) + ' |' for row in (heads, *rows)]
    return '\n'.join([lines[0], rule, *lines[1:]]) + '\n'


def figures_table(
    left: Iterable[str], right: Iterable[str], whole: bool = False, **options: Any
) -> Table:
    """A table for a terminal: names on the left, figures aligned to the right.

    Args:
        left, right: heads of the columns.
        whole: figures stay whole, names are folded where there is no room.
        options: of rich's ``Table``.
    """
    table = Table(title_justify='left', **options)
    for head in left:
        table.add_column(head, no_wrap=not whole, overflow='fold' if whole else 'ellipsis')
    for head in right:
        table.add_column(head, justify='right', no_wrap=whole)
    return table


def plot_label(text: Any) -> str:
    """Text for matplotlib, which takes what is between dollars for TeX."""
    return shown(text).replace('$', r'\$')


def shell_word(text: Any) -> str:
    """One word of a shell command, on one visible line.

    Text with invisible characters becomes ``$'...'``, which POSIX has since 2024 and bash, zsh and
    ksh have had before.
    """
    word = str(text)
    if shown(word) == word:
        return shlex.quote(word)
    quoted = word.replace('\\', r'\\').replace("'", r'\'')
    visible = (c if shown(c) == c else _octal(c) for c in quoted)
    return f"$'{''.join(visible)}'"


def _octal(character: str) -> str:
    """Its bytes as in the name of a file, where one may be no Unicode."""
    errors = 'surrogateescape' if '\udc80' <= character <= '\udcff' else 'surrogatepass'
    return ''.join(map(r'\{:03o}'.format, character.encode('utf-8', errors)))


def shell_command(words: Iterable[Any]) -> str:
    """A command that a shell splits into exactly these words."""
    return ' '.join(map(shell_word, words))


def own_command() -> list[str]:
    """The words that this program was started with, as one would type them again."""
    first, *words = (word for word in sys.argv if word)
    if first.startswith('mobileone-ext '):  # the command, and its sub-command
        return [*first.split(), *words]
    return ['python', first, *words]


def percent(value: Optional[float]) -> str:
    """Percent with two digits, as the tools print it."""
    return DASH if value is None else f'{value:.2f}'


def interval_of(value: Optional[float], images: int) -> Optional[tuple[float, float]]:
    """Wilson's interval of a share of images; None without a share.

    Args:
        value: percent.
        images: how many it was measured on.

    Returns:
        Its ends in percent.
    """
    if value is None or images < 1:
        return None
    low, high = wilson(round(value / 100 * images), images)
    return 100 * low, 100 * high


def share(value: Optional[float], images: int, unit: str = '') -> str:
    """Percent and its interval: '99.26 [98.1, 99.7]', or '99.26 % [...]'."""
    ends = interval_of(value, images)
    if ends is None:
        return percent(value)
    return f'{percent(value)}{unit} {bracket(*ends)}'


def bracket(low: float, high: float) -> str:
    """The ends of an interval of percent: '[98.1, 99.7]'."""
    return f'[{low:.1f}, {high:.1f}]'


def worth(images: int) -> str:
    """What one of so many images counts: '1 image = 1.79 points'."""
    digits = '.2f' if images <= 10_000 else '.2g'
    return f'1 image = {100 / images:{digits}} points'


def size(value: Optional[int]) -> str:
    """A size in MiB, KiB or B."""
    if value is None:
        return DASH
    for unit, scale in (('MiB', 2**20), ('KiB', 2**10)):
        if value >= scale:
            number = value / scale
            digits = 0 if number >= 100 or number == int(number) else 1
            return f'{number:.{digits}f}{NBSP}{unit}'
    return f'{value}{NBSP}B'


def confidence() -> str:
    """Of every interval, in words: '95 %'."""
    return f'{100 * CONFIDENCE:g}{NBSP}%'


def points(value: Optional[float]) -> str:
    """Percentage points, with a true minus and none before zero."""
    return DASH if value is None else f'{round(value, 2) + 0.0:.2f}'.replace('-', MINUS)


def decibel(value: Optional[float]) -> str:
    """Decibel with one digit; equal outputs have no noise."""
    if value is None:
        return DASH
    return 'equal' if value == math.inf else f'{value:.1f}'


def count(value: Optional[int]) -> str:
    """A whole number, thousands apart (by a thin space)."""
    return DASH if value is None else f'{value:,}'.replace(',', '\u2009')


def counted(number: int, what: str) -> str:
    """A number of things: '1 epoch', '2 epochs', '2 classes'."""
    plural = f'{what}es' if what.endswith('s') else f'{what}s'
    return f'{number} {what if number == 1 else plural}'


def small(value: Optional[float]) -> str:
    """A share far below one, or a dash where it is not finite."""
    return 'not finite' if value is None else f'{value:.1e}'


def magnitude(value: float) -> str:
    """A positive number of any size with three digits."""
    return f'{value:.3g}' if value < 1e5 else f'{value:.2e}'


def times(value: float) -> str:
    """A ratio with two digits."""
    return f'{value:.1f}' if value < 100 else f'{value:.0f}'


class Steps:
    """Report steps on stderr.

    Args:
        show: False reports nothing.
    """

    def __init__(self, show: bool):
        self._console = PlainConsole(stderr=True, quiet=not show, highlight=False)

    @contextmanager
    def step(self, title: str, total: Optional[int] = None) -> Iterator[Callable[[int], None]]:
        """Run a block as one step; yields a function to advance a count."""
        columns = [SpinnerColumn(), TextColumn('{task.description}', markup=False)]
        if total is not None:
            columns += [BarColumn(), MofNCompleteColumn()]
        start = time.monotonic()
        with Progress(
            *columns,
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bar:
            task = bar.add_task(shown(title), total=total)
            yield lambda count: bar.advance(task, count)
        self._console.print(f'{title}: {time.monotonic() - start:.1f} s')
