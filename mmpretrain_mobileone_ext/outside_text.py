r"""Text from outside, written so that it stays text wherever it is shown.

Names of classes, files, variants, layers and options come from people who
may mean no good, or who just like brackets. Whoever puts such text into a
terminal, a table, a picture or a command does it through this module;
configs have :mod:`config_text`, Swift has ``coreml.swift.literals``.
"""
from __future__ import annotations

import csv
import io
import numbers
import os
import re
import shlex
import string
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

#: Controls (with escape sequences), invisible marks (with those that turn
#: the direction of writing), halves of surrogate pairs, line separators.
_INVISIBLE = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')
#: Joiners, without which Persian or Hindi is misspelled.
_JOINERS = '\u200c\u200d'
#: What a spreadsheet takes for the beginning of a formula, and the forms of
#: them that Japanese ones take for the same.
_FORMULA = ('=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20')
_MARKDOWN = re.compile(
    r'[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])|:(?=//)')
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
        c if c in keep or c in _JOINERS
        or unicodedata.category(c) not in _INVISIBLE
        else c.encode('unicode_escape').decode() for c in line)


class PlainConsole(Console):
    """A console to which markup, emoji codes and escapes are just text."""

    def __init__(self, **options: Any):
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

    Numbers stay what they are. Text that would be one is led by a single
    quote, as OWASP advises.
    """
    text = io.StringIO()
    csv.writer(text).writerows(
        [_csv_cell(value) for value in row] for row in rows)
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
    return '<code>' + ''.join(
        f'&#{ord(c)};' if c in string.punctuation or c == ' ' else c
        for c in line) + '</code>'


def plot_label(text: Any) -> str:
    """Text for matplotlib, which takes what is between dollars for TeX."""
    return shown(text).replace('$', r'\$')


def shell_word(text: Any) -> str:
    """One word of a shell command, on one visible line.

    Text with invisible characters becomes ``$'...'``, which POSIX has since
    2024 and bash, zsh and ksh have had before.
    """
    word = str(text)
    if shown(word) == word:
        return shlex.quote(word)
    quoted = word.replace('\\', r'\\').replace("'", r"\'")
    return "$'" + ''.join(
        c if shown(c) == c else ''.join(map(r'\{:03o}'.format, _octets(c)))
        for c in quoted) + "'"


def _octets(character: str) -> bytes:
    """As in the name of a file, where a byte may be no Unicode."""
    errors = 'surrogateescape' if '\udc80' <= character <= '\udcff' else \
        'surrogatepass'
    return character.encode('utf-8', errors)


def shell_command(words: Iterable[Any]) -> str:
    """A command that a shell splits into exactly these words."""
    return ' '.join(map(shell_word, words))
