"""tools/doctor.py: works where nothing else does; its exit code is true."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_kit import GOOD, ONEDL, with_installed

import mmpretrain_mobileone_ext
from mmpretrain_mobileone_ext.utils import doctor
from mmpretrain_mobileone_ext.utils.doctor import (
    abilities,
    show,
    steps_on_terminal,
    verdict,
    version_rows,
)
from mmpretrain_mobileone_ext.utils.doctor.facts import Diagnosis, Finding, Rehearsal, Step
from mmpretrain_mobileone_ext.utils.doctor.traps import find_traps

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = Path(mmpretrain_mobileone_ext.__file__).parent
TITLES = ('import torch', 'train', 'fold', 'export', 'score')
PASSED = Rehearsal(tuple(Step(t, True, 1.0) for t in TITLES))
BROKEN = Rehearsal((*PASSED.steps[:2], Step('fold', False, 0.5, 'ValueError: x')))


def diagnosis(facts=GOOD, rehearsal=PASSED):
    return Diagnosis(facts, tuple(find_traps(facts)), rehearsal, tuple(abilities(facts, rehearsal)))


def text_of(found, terminal=False):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    show(found, stream)
    return stream.getvalue()


def test_the_main_job_runs_only_if_it_was_rehearsed_without_errors():
    assert diagnosis().can_run
    assert not diagnosis(rehearsal=BROKEN).can_run
    assert not diagnosis(rehearsal=Rehearsal()).can_run
    assert not diagnosis(with_installed(coremltools=None)).can_run
    assert diagnosis(with_installed(numpy='2.4.1')).can_run  # a warning


@pytest.mark.parametrize(('rehearsal', 'code'), [(PASSED, 0), (BROKEN, 1)])
@pytest.mark.parametrize('arguments', [[], ['--json']])
def test_the_exit_code_says_it(rehearsal, code, arguments, monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'gather', lambda: GOOD)
    monkeypatch.setattr(doctor, 'rehearse', lambda announce: rehearsal)
    assert doctor.main(arguments) == code
    out = capsys.readouterr().out
    if arguments:
        assert json.loads(out)['can_run'] == (code == 0)
        assert json.loads(out)['facts']['installed']['torch'] == '2.14.1'
    else:
        assert ('run here.' in out.splitlines()[-1]) == (code == 0)


def test_plain_text_has_no_box_and_no_colour():
    facts = replace(
        with_installed(mmcv='2.2.0', torch='2.13.0', torchvision='0.28.0'), compiler=None
    )
    text = text_of(diagnosis(facts, BROKEN))
    assert 'torch | ==2.14.1 | 2.13.0 | differs' in text
    assert 'fold | error | 0.5 | ValueError: x' in text
    assert 'mmdeploy | ==1.3.1 | optional' in text
    assert 'mmcv and mmcv-lite are both installed' in text
    assert not set('\x1b│┃─') & set(text)


def test_a_terminal_gets_tables():
    text = text_of(diagnosis(), terminal=True)
    assert '\x1b[' in text or '─' in text
    assert 'tested' in text


def test_without_rich_a_terminal_gets_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rich.console', None)
    assert 'torch | ==2.14.1' in text_of(diagnosis(), terminal=True)


def test_steps_are_shown_as_they_end_where_somebody_watches():
    for terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        with steps_on_terminal(stream) as announce:
            announce(BROKEN.steps[-1])
        assert ('failed: ValueError: x' in stream.getvalue()) == terminal


def test_mmcv_stands_in_for_mmcv_lite():
    rows = version_rows(with_installed(mmcv_lite=None, mmcv='2.1.0'))
    assert ('mmcv', '==2.2.0', '2.1.0', 'differs') in rows


def test_the_fork_is_listed_where_it_is_installed():
    names = [row[0] for row in version_rows(ONEDL)]
    assert ('onedl-mmcv', '==2.3.6', '2.3.6', 'tested') in version_rows(ONEDL)
    assert not {'mmcv-lite', 'mmengine', 'mmpretrain'} & set(names)
    assert not [row for row in version_rows(GOOD) if row[0].startswith('onedl')]


def test_the_verdict_names_what_is_wrong():
    assert 'coremltools is not installed' in verdict(
        diagnosis(with_installed(coremltools=None), BROKEN)
    )
    found = replace(BROKEN, hint='do this')
    assert 'fold: ValueError: x' in verdict(diagnosis(rehearsal=found))
    assert verdict(diagnosis(rehearsal=found)).endswith('do this')


def test_what_runs_depends_on_the_system_and_the_rehearsal():

    def runs(facts, rehearsal):
        return {a.job: a.runs for a in abilities(facts, rehearsal)}

    linux = runs(GOOD, PASSED)
    assert linux['train'] == linux['export to Core ML'] == 'yes'
    assert linux["run a file in Apple's Core ML runtime"] == 'no'
    assert linux['compile the Swift package'] == 'no'
    mac = runs(replace(GOOD, system='Darwin', swift='/usr/bin/swift'), PASSED)
    assert mac["run a file in Apple's Core ML runtime"] == 'yes'
    assert mac['compile the Swift package'] == 'yes'
    broken = runs(replace(GOOD, compiler=None), BROKEN)
    assert broken['train'] == 'yes'
    assert broken['fold branches'] == broken['write a Swift package'] == 'no'
    assert broken['compile the kernels for depthwise units'] == 'no'
    assert runs(GOOD, replace(PASSED, cuda=True))['train on a GPU'] == 'yes'


def test_findings_know_their_levels():
    assert {f.level for f in find_traps(with_installed(setuptools='90', mmcv='2'))} == {
        'error',
        'warning',
        'note',
    }
    assert Finding('note', 'a', 'b').fix == ''


def bare_python(tool, *arguments):
    """Run a tool in a Python that has the standard library only."""
    return subprocess.run(
        [sys.executable, '-I', '-S', str(tool), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_works_without_torch_and_everything_else():
    done = bare_python(ROOT / 'tools/doctor.py')
    assert done.returncode == 1
    assert done.stderr == ''
    assert 'torch is not installed' in done.stdout
    assert 'main job cannot run here' in done.stdout.splitlines()[-1]


def test_a_copy_as_a_wheel_installs_it_finds_its_matrix(tmp_path):
    site = tmp_path / 'site/mmpretrain_mobileone_ext'
    shutil.copytree(PACKAGE / 'utils/doctor', site / 'utils/doctor')
    shutil.copy(PACKAGE / 'utils/processes.py', site / 'utils')
    # The package around it is broken.
    (site / '__init__.py').write_text('raise ImportError')
    tools = site / '.mim/tools'
    tools.mkdir(parents=True)
    shutil.copy(ROOT / 'tools/doctor.py', tools)
    shutil.copy(ROOT / 'requirements-tested.txt', site / '.mim')
    done = bare_python(tools / 'doctor.py', '--json')
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found['facts']['tested']['mmpretrain'].startswith('==')
    assert done.stderr == ''


def test_nothing_in_it_imports_the_package_around_it():
    folder = PACKAGE / 'utils/doctor'
    files = {path.name for path in folder.glob('*.py')}
    assert files >= {'__init__.py', 'facts.py', 'failed_import.py', 'probe.py', 'traps.py'}
    for path in (*folder.glob('*.py'), PACKAGE / 'utils/processes.py'):
        text = path.read_text()
        assert 'from ..' not in text
        assert 'import mmpretrain_mobileone_ext' not in text
        assert 'import torch' not in text.replace("'import torch'", '')


def test_a_version_that_differs_is_explained():
    words = 'it matters only where a known trap names it'
    assert words in text_of(diagnosis(with_installed(torch='2.13.0'), BROKEN))
    assert words not in text_of(diagnosis(GOOD, BROKEN))
