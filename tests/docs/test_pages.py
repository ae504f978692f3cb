"""The pages that are made from the program, and the build as readers see it."""

import argparse
import json
import re
import shutil
import subprocess
import sys

import pytest
from docs_kit import DOCS, README, ROOT, extension

pytest.importorskip('sphinx')
pytest.importorskip('myst_parser')
pytest.importorskip('furo')


def test_the_op_table_is_the_registry():
    from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS

    made = extension('from_program')
    rows = [line for line in made.operations().splitlines() if line.startswith('| `')]
    assert [row.split('`')[1] for row in rows] == [
        name for names in made.themes().values() for name in names
    ]
    assert {row.split('`')[1] for row in rows} == set(OPS)
    assert [row for row in rows if row.endswith('|  |')] == []


def test_options_are_those_of_the_parsers():
    rows = extension('from_program').options('export')
    for option in ('--out', '--compress', '--max-drop', '--swift', '--report'):
        assert f'| `{option}' in rows
    assert '%(default)' not in rows


def test_options_read_the_same_from_every_python():
    """3.13 writes a value once for all names, and adds no default to a pair of switches."""
    parser = argparse.ArgumentParser()
    parser.add_argument('words', nargs='*', metavar='WORD')
    parser.add_argument('-o', '--out', help='a|b')
    parser.add_argument('--fast', action=argparse.BooleanOptionalAction, default=True, help='go')
    parser.add_argument('--force', action='store_true', help='really')
    assert list(extension('from_program')._option_rows(parser)) == [
        '| `[WORD ...]` |  |',
        r'| `-o, --out OUT` | a\|b |',
        '| `--fast, --no-fast` | go |',
        '| `--force` | really |',
    ]


def test_a_notebook_is_a_page():
    notebook = json.loads((DOCS / 'tutorial.ipynb').read_text('utf-8'))
    text = extension('notebook_page').page(notebook, DOCS)
    assert text.startswith('# From photos to a phone')
    assert '```sh\nmobileone-ext finetune photos ' in text
    assert '![output](/_build/notebook/' in text
    assert '\x1b' not in text


def build(source, out):
    return subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', source, out],
        capture_output=True,
        text=True,
        encoding='utf-8',
    )


@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path):
    done = build(DOCS, tmp_path / 'html')
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'html/phone/runtime.html').read_text('utf-8')
    assert 'pixel_shuffle' in re.sub('<[^>]*>', '', page)
    assert 'ConfigurableMobileOne' in (tmp_path / 'html/reference/api.html').read_text('utf-8')


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    root = tmp_path / 'clone'
    skipped = shutil.ignore_patterns('_build')
    shutil.copytree(DOCS, root / 'docs', ignore=skipped)
    shutil.copy(README, root)
    shutil.copy(ROOT / 'CHANGELOG.md', root)
    (root / 'mmpretrain_mobileone_ext').symlink_to(ROOT / 'mmpretrain_mobileone_ext')
    with open(root / 'docs/reference/limits.md', 'a', encoding='utf-8') as page:
        page.write('\n[nowhere](nowhere.md)\n')
    done = build(root / 'docs', tmp_path / 'html')
    assert done.returncode == 1
    assert 'nowhere.md' in done.stderr
