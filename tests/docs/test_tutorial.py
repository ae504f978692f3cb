"""The notebook runs from its first cell to its last, and its stored outputs are of these cells."""

import json
import os
import sys
from pathlib import Path

import pytest
from docs_kit import DOCS

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

SECONDS = 600
STORED = nbformat.read(DOCS / 'tutorial.ipynb', 4)


def printed(notebook):
    """All text below cells."""
    outputs = [o for cell in notebook.cells for o in cell.get('outputs', ())]
    return '\n'.join(o.get('text', '') for o in outputs)


def test_it_is_stored_with_small_outputs_and_no_path_of_a_machine():
    code = [cell for cell in STORED.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)
    assert (DOCS / 'tutorial.ipynb').stat().st_size < 64 * 1024
    text = json.dumps(STORED)
    assert [word for word in ('/tmp/', '/home/', '/root/') if word in text] == []
    assert 'error: ' not in printed(STORED)


@pytest.fixture
def command(tmp_path_factory, monkeypatch):
    """``mobileone-ext`` of this clone, found first."""
    folder = tmp_path_factory.mktemp('bin')
    script = folder / 'mobileone-ext'
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m mobileone_ext "$@"\n', 'utf-8')
    script.chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='its cells are of a POSIX shell')
def test_it_runs(tmp_path, command, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(DOCS.parent))
    notebook = nbformat.from_dict(STORED)
    where = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources=where).execute()
    (page,) = Path(tmp_path).glob('report/report.html')
    assert page.stat().st_size > 10_000
    forms = json.loads((tmp_path / 'report/report.json').read_text('utf-8'))['forms']
    assert min(form['top1'] for form in forms) > 90
    assert 'label: 7' in printed(notebook)
    assert (tmp_path / 'DigitsKit/Package.swift').is_file()
