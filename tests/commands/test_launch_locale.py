"""The tools where the locale is not UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.commands import cli as launch

ROOT = Path(__file__).resolve().parents[2]
NAME = '\u0434\u043e\u043c-\u72ac'  # Cyrillic and Chinese

#: A tool that writes and prints what it is given.
TOOL = """
import json, locale, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from mmpretrain_mobileone_ext.commands import cli
cli.MIM = Path(__file__).resolve().parents[1]

def main():
    # As mmengine does, without naming an encoding.
    with open(sys.argv[1] + '/log', 'w') as file:
        file.write(sys.argv[1])
    print(json.dumps(dict(argv=sys.argv[1:], ends=sys.argv[1][-5:],
                          mode=sys.flags.utf8_mode,
                          out=sys.stdout.encoding)))
    print(sys.argv[1])

sys.exit(cli.guarded(main))
"""


@pytest.mark.parametrize('locale', [pytest.param('C', marks=pytest.mark.slow), 'C.ISO-8859-1'])
def test_a_folder_with_any_name_works(locale, tmp_path):
    tool = tmp_path / 'tools/tool.py'
    folder = tmp_path / NAME
    tool.parent.mkdir()
    folder.mkdir()
    tool.write_text(TOOL.format(root=str(ROOT)), 'utf-8')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(tool), str(folder), '--x', 'y'],
        env={**os.environ, 'LC_ALL': locale, 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    told, printed = done.stdout.decode('ascii').splitlines()[-2:]
    found = json.loads(told)
    assert found['argv'] == [str(folder), '--x', 'y']
    assert found['ends'] == str(folder)[-5:]
    assert found['mode'] == 1
    assert printed == str(folder).encode('ascii', 'backslashreplace').decode()
    assert (folder / 'log').read_text('utf-8') == str(folder)


def test_what_a_terminal_lacks_is_escaped(capsys):
    assert launch.guarded(lambda: print('half \udcff, \u72ac')) == 0
    assert capsys.readouterr().out == 'half \\udcff, \u72ac\n'


def test_a_part_of_another_program_is_not_started_again(monkeypatch):
    monkeypatch.setattr(launch.locale, 'getpreferredencoding', lambda *_: 'ascii')
    monkeypatch.setattr(launch.os, 'execve', lambda *_: pytest.fail('again'))
    assert launch.guarded(lambda: None) == 0
