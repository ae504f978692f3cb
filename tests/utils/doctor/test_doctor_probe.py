"""A rehearsal in a child process that may end in any way."""

import sys
import threading

import pytest

from mmpretrain_mobileone_ext.utils.doctor import probe

START = 'import json, os, sys, time\ndef say(**k): print(json.dumps(k), flush=True)\n'


def rehearse(body, **options):
    seen = []
    found = probe.rehearse(seen.append, ['-c', START + body], **options)
    assert list(found.steps) == seen
    return found


def test_steps_are_followed_and_other_lines_ignored():
    found = rehearse(
        "say(step='import torch')\nprint('[1]'); print('noise')\nsay(done='import torch', "
        "seconds=1.5)\nsay(cuda=True)\nsay(step='train')\nsay(done='train', seconds=0.5)"
    )
    assert found.ok
    assert found.cuda
    assert [(s.title, s.seconds) for s in found.steps] == [('import torch', 1.5), ('train', 0.5)]
    assert found.passed('train')
    assert not found.passed('score')


@pytest.mark.parametrize(
    ('end', 'reason'),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            'RuntimeError: operator torchvision::nms does not exist',
        ),
        ('os.kill(os.getpid(), 11)', 'ended by signal 11'),
        ('os._exit(3)', 'exit code 3'),
        ("sys.exit('plain words')", 'plain words'),
    ],
)
def test_the_step_that_fails_says_why(end, reason):
    found = rehearse(
        f"say(step='a'); say(done='a', seconds=0)\nsay(step='import torchvision')\n{end}"
    )
    assert not found.ok
    last = found.steps[-1]
    assert (last.title, last.ok, last.error) == ('import torchvision', False, reason)
    assert found.passed('a')
    if 'nms' in reason:
        assert 'torch and torchvision in one command' in found.hint


def test_a_child_that_never_starts_its_steps_fails():
    found = rehearse('syntax error')
    assert [s.title for s in found.steps] == ['start']
    assert 'SyntaxError' in found.steps[0].error
    assert not rehearse('').ok  # it did nothing


def test_a_failure_after_the_last_step_is_one():
    found = rehearse("say(step='a'); say(done='a', seconds=0)\nraise ValueError('late')")
    assert not found.ok
    assert found.steps[-1].error == 'ValueError: late'


def test_a_child_that_hangs_is_ended():
    found = rehearse("say(step='import torch')\ntime.sleep(600)", seconds=1)
    assert found.steps[-1].error == 'no result after 1 s'
    assert not found.ok


def test_a_child_is_known_to_hang_before_its_end_is_seen(monkeypatch):
    seen = threading.Event()

    class SlowToReturn(threading.Timer):
        def __init__(self, seconds, end):
            super().__init__(seconds, lambda: (end(), seen.wait()))

    monkeypatch.setattr(probe, 'Timer', SlowToReturn)
    try:
        found = rehearse("say(step='import torch')\ntime.sleep(600)", seconds=1)
    finally:
        seen.set()
    assert found.steps[-1].error == 'no result after 1 s'


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('ImportError: libGL.so.1: cannot open', 'headless'),
        ("No module named 'pkg_resources'", 'setuptools<81'),
        ('Descriptors cannot be created directly', 'protobuf'),
        ('A module that was compiled using NumPy 1.x', 'numpy<2'),
        ('something new', ''),
    ],
)
def test_known_errors_have_a_hint(text, words):
    assert words in probe._hint(text)
    assert bool(words) == bool(probe._hint(text))


@pytest.mark.slow
def test_the_real_rehearsal_passes_here():
    found = probe.rehearse()
    assert found.ok, found.steps
    titles = [s.title for s in found.steps]
    assert titles[-4:] == ['train', 'fold', 'export', 'score']
    assert titles[0] == 'import torch'


def test_a_missing_module_stops_the_real_one(tmp_path, monkeypatch):
    (tmp_path / 'torch.py').write_text("raise ImportError('libtorch.so')")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = probe.rehearse()
    assert [(s.title, s.error) for s in found.steps] == [
        ('import torch', 'ImportError: libtorch.so')
    ]
    assert sys.modules['torch'].__file__ != str(tmp_path / 'torch.py')
