"""Hostile names through every sink, each read by somebody else's reader."""

import csv
import io
import os
import re
import subprocess

import numpy as np
import pytest
from hostile_text import NAMES
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mmpretrain_mobileone_ext.utils.text import (
    PlainConsole,
    Steps,
    csv_text,
    markdown,
    markdown_code,
    plot_label,
    print_path,
    shell_command,
    shown,
)

FORMULA = re.compile('[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r]')


def test_what_is_shown_is_one_visible_line():
    for name in NAMES:
        assert len(shown(name).splitlines()) == 1, name
        assert shown(name).replace('\u200c', '').isprintable(), name
        shown(name).encode()
    assert shown('a\x1b[1mé\udc80\n日\u202e') == r'a\x1b[1mé\udc80\n日\u202e'
    assert shown('a\n\tb', keep='\n') == 'a\n\\tb'


@given(st.text())
def test_printable_text_is_shown_as_it_is(text):
    if text.isprintable():
        assert shown(text) == text
    assert not set(shown(text)) & {'\x1b', '\x9b', '\n', '\r', '\x00'}


def printed(console_type, *values, **options):
    stream = io.StringIO()
    console = console_type(
        file=stream, width=1000, force_terminal=True, color_system=None, **options
    )
    for value in values:
        console.print(value)
    return stream.getvalue()


def table(name):
    made = Table(title=name, caption=name)
    made.add_column(name)
    made.add_row(name)
    return made


def test_a_console_prints_names_as_they_are():
    for name in NAMES:
        text = printed(PlainConsole, f'{name}.', table(name))
        assert '\x1b' not in text.replace(r'\x1b', ''), name
        words = shown(name, keep='\n').split()
        assert all(text.count(word) >= 4 for word in words), name


def test_another_console_obeys_the_name():
    with pytest.raises(Exception, match='closing tag'):
        printed(Console, '[/]')
    assert '\x1b]0;' in printed(Console, '\x1b]0;title\x07')


def test_progress_shows_names_as_they_are(capsys):
    steps = Steps(True)
    for name in ('[/]', '[bold]x', '\x1b]0;t\x07', 'a\udc80'):
        with steps.step(name, total=1) as advance:
            advance(1)
        assert shown(name) in capsys.readouterr().err


def test_csv_holds_no_formula_and_numbers_stay():
    rows = [['head', *NAMES], [-1, -0.5, np.float64(-2), np.int64(-3), None]]
    found = list(csv.reader(io.StringIO(csv_text(rows))))
    for name, cell in zip(NAMES, found[0][1:]):
        assert not FORMULA.match(cell.strip() or 'x'), name
        assert cell in (shown(name), f"'{shown(name)}"), name
        assert cell == shown(name) or FORMULA.match(name.lstrip()), name
    assert found[1] == ['-1', '-0.5', '-2.0', '-3', '']


GFM = MarkdownIt('commonmark').enable(['table', 'strikethrough'])


def cells(text):
    """The inline content of every cell, as (types, text) of its tokens."""
    found = [t for t in GFM.parse(text) if t.type == 'inline']
    return [([c.type for c in t.children], ''.join(c.content for c in t.children)) for t in found]


@pytest.mark.parametrize('escape', [markdown, markdown_code])
def test_a_markdown_cell_is_text(escape):
    for name in NAMES:
        if not name.strip() and escape is markdown:
            continue  # an empty cell
        text = f'| a | b |\n|---|---|\n| {escape(name)} | last |\n'
        _, _, (types, content), last = cells(text)
        allowed = (
            {'text', 'text_special'}
            if escape is markdown
            else {'text', 'text_special', 'code_inline', 'html_inline'}
        )
        assert set(types) <= allowed, name
        content = (
            content.replace('<code>', '').replace('</code>', '')
            if 'html_inline' in types
            else content
        )
        assert content == (shown(name) if 'html_inline' in types else shown(name).strip()), name
        assert last == (['text'], 'last'), name


def test_plain_words_stay_readable_in_markdown():
    assert markdown('mobileone-s0_8xb32 k = 4') == 'mobileone-s0_8xb32 k = 4'
    assert markdown_code('classLabel_probs') == '`classLabel_probs`'


def test_markdown_without_escapes_is_noticed():
    text = '| a | b |\n|---|---|\n| **b** | x|y |\n'
    assert cells(text)[2][0] != ['text']


@pytest.mark.filterwarnings('ignore:Glyph')
def test_a_plot_draws_dollars():
    figure = Figure()
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    labels = [axis.text(0, 0, plot_label(name)) for name in NAMES]
    figure.canvas.draw()
    for label, name in zip(labels, NAMES):
        words, is_math = label._preprocess_math(label.get_text())
        assert not is_math, name
        assert words == shown(name), name
    axis.text(0, 0, '$\\frac$')
    with pytest.raises(ValueError, match='frac'):
        figure.canvas.draw()


def test_a_shell_splits_a_command_into_its_words(tmp_path):
    words = [name for name in NAMES if '\ud83d' not in name]
    command = shell_command(['printf', r'%s\0', *words])
    assert command.isprintable()
    done = subprocess.run(['bash', '-c', command], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.split(b'\0')[:-1] == [os.fsencode(w) for w in words]
    assert not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_script_gets_the_exact_path_a_terminal_a_visible_one(capfdbinary, monkeypatch):
    path = 'a\x1b[1m\udc80'
    print_path(path)
    assert capfdbinary.readouterr().out == b'a\x1b[1m\x80\n'
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    print_path(path)
    assert capfdbinary.readouterr().out == b'a\\x1b[1m\\udc80\n'
