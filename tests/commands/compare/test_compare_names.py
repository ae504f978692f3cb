"""Models of any name in the files of a comparison."""

import csv
import json
from dataclasses import replace

import pytest
from hostile_text import NAMES
from markdown_it import MarkdownIt
from test_compare_show import MACHINE, row

from mmpretrain_mobileone_ext.commands.compare.table import (
    Comparison,
    comparison_table,
    write_comparison,
)
from mmpretrain_mobileone_ext.utils.text import PlainConsole, shown


def found(names):
    rows = [replace(row(n, 10.0 + i, 70.0), failure=n) for i, n in enumerate(names)]
    return Comparison(tuple(rows), 224, 1, MACHINE, tuple(names))


@pytest.mark.filterwarnings('ignore:Glyph')
def test_files_hold_every_name_as_text(tmp_path):
    write_comparison(found(NAMES[::16]), tmp_path)  # with a picture
    write_comparison(
        Comparison(
            tuple(replace(r, torch=None) for r in found(NAMES).rows), 224, 1, MACHINE, NAMES
        ),
        tmp_path,
    )
    with open(tmp_path / 'compare.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    for name in ('name', 'label', 'failure'):
        assert [r[name].removeprefix("'") for r in rows] == [
            shown(n).removeprefix("'") for n in NAMES
        ]
    document = json.loads((tmp_path / 'compare.json').read_text())
    assert [r['name'] for r in document['rows']] == list(NAMES)
    inline = [
        t
        for t in MarkdownIt('commonmark')
        .enable(['table', 'strikethrough'])
        .parse((tmp_path / 'compare.md').read_text())
        if t.type == 'inline'
    ]
    kinds = {c.type for t in inline for c in t.children}
    assert kinds <= {'text', 'text_special', 'softbreak'}
    texts = [''.join(c.content for c in t.children) for t in inline]
    assert all(shown(n).strip() in texts for n in NAMES)


def test_the_table_shows_every_name(capsys):
    PlainConsole(width=2000).print(comparison_table(found(NAMES)))
    text = capsys.readouterr().out
    assert all(word in text for n in NAMES for word in shown(n, keep='\n').split())
