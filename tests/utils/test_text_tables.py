"""Tables, and errors in one line."""

import pytest
from rich.console import Console

from mmpretrain_mobileone_ext.utils.text import (
    counted,
    figures_table,
    markdown_table,
    one_line,
    own_command,
)


def test_an_error_is_one_line_with_its_type():
    assert one_line(ValueError('a\n  b\tc')) == 'ValueError: a b c'
    assert one_line('a\n  b') == 'a b'
    assert one_line(KeyError()) == 'KeyError:'


def test_long_text_is_cut_and_says_so():
    assert one_line('x' * 300) == 'x' * 300
    assert one_line('x' * 301) == 'x' * 300 + '...'
    assert one_line(ValueError('y' * 10**7), 20) == 'ValueError: yyyyyyyy...'


def test_a_markdown_table_escapes_and_aligns():
    assert markdown_table(['a', 'b'], [['x|y', 1], ['z', 2]], 'lr') == (
        '| a | b |\n|---|---:|\n| x\\|y | 1 |\n| z | 2 |\n'
    )


def test_figures_stand_on_the_right():
    table = figures_table(['name'], ['ms'], title='t')
    table.add_row('a', '1')
    table.add_row('b', '100')
    console = Console(width=40)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert lines[0].startswith('t')
    assert any(line.split('│')[1:-1] == [' a    ', '   1 '] for line in lines)


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['mobileone-ext report', 'runs/a'], ['mobileone-ext', 'report', 'runs/a']),
        (['tools/report.py', 'runs/a b'], ['python', 'tools/report.py', 'runs/a b']),
        (['tools/report.py', ''], ['python', 'tools/report.py']),
    ],
)
def test_a_program_knows_how_it_was_started(monkeypatch, argv, words):
    monkeypatch.setattr('sys.argv', argv)
    assert own_command() == words


@pytest.mark.parametrize(
    ('number', 'what', 'said'),
    [
        (1, 'epoch', '1 epoch'),
        (2, 'epoch', '2 epochs'),
        (0, 'image', '0 images'),
        (3, 'class', '3 classes'),
    ],
)
def test_one_thing_is_no_plural(number, what, said):
    assert counted(number, what) == said
