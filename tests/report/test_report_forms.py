"""The table of the demo."""

import io
import json

from rich.console import Console

from mmpretrain_mobileone_ext.report import FormResult, forms_table, write_forms_json
from mmpretrain_mobileone_ext.utils.files import tree_bytes

ROWS = [FormResult('folded', 98.765, 2048, 99.5, 540, 'a_deploy.pth')]


def test_table_and_json_hold_the_same_figures(tmp_path):
    stream = io.StringIO()
    Console(file=stream, width=100).print(forms_table(ROWS, 'title'))
    for text in ('folded', '98.77', '99.50', '540', ' 2 '):
        assert text in stream.getvalue()
    path = write_forms_json(ROWS, tmp_path / 'forms.json')
    (row,) = json.loads(path.read_text())
    assert FormResult(**row) == ROWS[0]


def test_bytes_of_a_file_and_of_a_folder(tmp_path):
    (tmp_path / 'a/b').mkdir(parents=True)
    (tmp_path / 'a/x').write_bytes(b'123')
    (tmp_path / 'a/b/y').write_bytes(b'45678')
    assert tree_bytes(tmp_path / 'a/x') == 3
    assert tree_bytes(tmp_path / 'a') == 8
