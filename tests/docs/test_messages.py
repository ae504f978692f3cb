"""What the pages quote of the program is what the program says."""

import ast
import re

import pytest
from docs_kit import DOCS, extension

PACKAGE = DOCS.parent / 'mmpretrain_mobileone_ext'
PAGE = (DOCS / 'start/troubleshooting.md').read_text('utf-8')
HEADS = re.findall(r'^- (\*\*`.*)$', PAGE, re.MULTILINE)
QUOTED = [text for head in HEADS for text in re.findall(r'\*\*`(.+?)`\*\*', head)]


def said():
    """Every text in the package's source, ellipses for what is computed."""
    texts = extension('from_program').texts
    files = PACKAGE.rglob('*.py')
    return [text for file in files for text in texts(ast.parse(file.read_text('utf-8')))]


SAID = said()


@pytest.mark.parametrize('text', QUOTED)
def test_a_quoted_message_is_in_the_source(text):
    assert any(text in one for one in SAID)


def test_what_is_in_no_source_is_noticed():
    assert len(QUOTED) > 60
    assert not any('this folder likes no cats' in one for one in SAID)


def test_every_answer_follows_a_quoted_message():
    answers = re.findall(r'^- .*\n\n  \S', PAGE, re.MULTILINE)
    assert len(answers) == len(HEADS)


def test_all_errors_of_the_source_are_listed():
    listed = extension('from_program').messages()
    assert '\n…: no such folder of images\n' in listed
    for error in ('SpecError', 'CheckpointError', 'ExportError', 'ProgramError', 'ParityError'):
        assert error in extension('from_program').errors()
    raised = {
        ' '.join(node.args[0].value.split())
        for file in PACKAGE.rglob('*.py')
        for node in ast.walk(ast.parse(file.read_text('utf-8')))
        if isinstance(node, ast.Call)
        and getattr(node.func, 'id', '') in extension('from_program').errors()
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(raised) > 30
    assert [text for text in raised if text not in listed] == []
