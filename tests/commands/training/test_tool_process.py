"""Tools as processes: their log, and one line when they fail."""

import pytest
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training.to_phone import run_tool
from mmpretrain_mobileone_ext.errors import MobileOneExtError


def run(tmp_path, *args):
    log = tmp_path / 'log'
    return log, run_tool('doctor.py', args, log, 'examine', Console(quiet=True))


def test_what_a_tool_says_is_in_its_log(tmp_path):
    log, seconds = run(tmp_path, '--help')
    assert 'usage' in log.read_text()
    assert seconds > 0


def test_a_failure_is_told_in_the_tools_words(tmp_path):
    with pytest.raises(MobileOneExtError) as caught:
        run(tmp_path, '--no-such-option')
    message = str(caught.value)
    assert message.startswith('examine failed with exit code ')
    assert '--no-such-option' in message
    assert str(tmp_path / 'log') in message
