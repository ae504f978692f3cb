"""Hostile names in every text of a report: shown, and nothing else."""

import json
from dataclasses import fields, is_dataclass, replace

import pytest
from hostile_text import NAMES
from report_kit import Page, sample

from mmpretrain_mobileone_ext.report import FormRow, write_report
from mmpretrain_mobileone_ext.report.page import render
from mmpretrain_mobileone_ext.utils.text import shown

#: Texts that decide what is drawn, which no file or person gives.
_OURS = ('kind', 'level', 'created', 'png')


def spoiled(value, name, mark):
    """The same data with every text led by a mark and a hostile name.

    The mark keeps texts different where the page groups or looks them up.
    """
    if is_dataclass(value):
        return replace(
            value,
            **{
                f.name: spoiled(getattr(value, f.name), name, mark)
                for f in fields(value)
                if f.name not in _OURS
            },
        )
    if isinstance(value, dict):
        return {spoiled(k, name, mark): spoiled(v, name, mark) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(spoiled(v, name, mark) for v in value)
    return f'{value}{mark}{name}' if isinstance(value, str) and value else value


def outline(page):
    """Elements and the names of their attributes, in order."""
    return [(e['tag'], sorted(e['attrs'])) for e in page.elements]


#: Several in one text, so that there are few pages.
GROUPS = [' '.join(NAMES[part::12]) for part in range(12)]
PLAIN = sample(
    drift=(),
    weight_ranges=(),
    candidates=(),
    forms=tuple(replace(f, size_bytes=None) for f in sample().forms),
)


@pytest.mark.slow
def test_names_add_nothing_to_a_page_with_pictures():
    known = Page(render(sample()))
    attributes = {a for e in known.elements for a in e['attrs']}
    for name in GROUPS:
        page = Page(render(spoiled(sample(), name, '·')))
        assert page.unbalanced == []
        assert {e['tag'] for e in page.elements} <= {e['tag'] for e in known.elements}
        assert {a for e in page.elements for a in e['attrs']} <= attributes


def test_a_page_has_the_same_outline_for_any_name():
    wanted = outline(Page(render(spoiled(PLAIN, 'x', '·'))))
    for name in GROUPS:
        page = Page(render(spoiled(PLAIN, name, '·')))
        assert outline(page) == wanted
        heading = next(e for e in page.elements if e['tag'] == 'title')
        assert heading['text'].endswith(f'·{shown(name, keep=chr(10) + chr(9))}')


def test_another_outline_is_noticed():
    wanted = outline(Page(render(PLAIN)))
    text = render(PLAIN).replace('</h1>', '<b>x</b></h1>')
    assert outline(Page(text)) != wanted
    text = render(PLAIN).replace('<h1>', '<h1 onclick="x">')
    assert outline(Page(text)) != wanted


def test_files_are_written_for_any_name(tmp_path):
    forms = tuple(FormRow(f'{i} {n}', file=n, note=n) for i, n in enumerate(NAMES))
    write_report(sample(forms=forms, warnings=NAMES), tmp_path)
    found = json.loads((tmp_path / 'report.json').read_text('utf-8'))
    assert [f['file'] for f in found['forms']] == list(NAMES)
    text = (tmp_path / 'report.html').read_text('utf-8')
    assert not set(text) & set(map(chr, (*range(9), *range(14, 32))))
