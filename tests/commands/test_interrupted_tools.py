"""Real tools, ended by a signal: nobody lives on, and a rerun goes on."""

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from child_kit import assert_gone, living, marked_env, start

from mmpretrain_mobileone_ext.commands.training.demo import write_digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='processes are found in /proc'),
]
REPO = Path(__file__).resolve().parents[2]
CONFIG = str(REPO / 'configs/digits/mobileone-tiny_bs64_digits.py')
SOON = 2.0  # seconds
#: More than are trained while a second process starts, on any machine.
EPOCHS = 200
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: Averaged weights that keep up with few epochs, and a loader of two processes, which have to end
#: as well.
FAST = (
    '--cfg-options',
    'custom_hooks.0.momentum=0.3',
    'train_dataloader.num_workers=2',
    'train_dataloader.persistent_workers=True',
)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp('data') / 'digits')


@pytest.fixture
def started():
    """Starts processes as ``start`` does; a test that fails leaves none."""
    with contextlib.ExitStack() as stack:

        def go(command, env):
            process = stack.enter_context(start(command, env))
            stack.callback(process.kill)
            return process

        yield go


def demo(digits, work):
    return (['demo.py', '--data-dir', digits.parent, '--work-dir', work], work)


def finetune(digits, work):
    return (
        ['finetune.py', digits, '--config', CONFIG, '--epochs', EPOCHS, '--work-dir', work, *FAST],
        work,
    )


def ablate(digits, work):
    roots = (f'{split}_dataloader.dataset.data_root={digits}' for split in ('train', 'val', 'test'))
    return (
        [
            'ablate.py',
            CONFIG,
            '--vary',
            'model.backbone.num_conv_branches=1',
            '--out',
            work,
            *FAST,
            f'train_cfg.max_epochs={EPOCHS}',
            *roots,
        ],
        work / 'num_conv_branches_1/seed0',
    )


@pytest.mark.parametrize('tool', [demo, finetune, ablate])
def test_no_child_lives_on_and_a_rerun_goes_on(tool, digits, started, tmp_path):
    argv, trained = tool(digits, tmp_path / 'work')
    command = [sys.executable, str(REPO / 'tools' / argv[0]), *map(str, argv[1:])]
    # A folder of photos is not gone on with unasked.
    asked = ['--resume'] if tool is finetune else []
    for epoch, number in enumerate(SIGNALS, 1):
        env = marked_env(OMP_NUM_THREADS='1')
        running = started([*command, *(asked if epoch > 1 else [])], env)
        _wait_for_epoch(running, trained / 'train.log', epoch)
        assert len(living(env)) >= 3  # the tool, a guard, the training
        if number == SIGNALS[0]:
            _assert_refused(command, running)
        running.send_signal(number)
        # The tool itself may take its time to leave Python.
        assert_gone(env, SOON, but=running.pid)
        running.communicate()
        assert running.returncode in (-number, 128 + number)
    rerun = started([*command, *asked], marked_env(OMP_NUM_THREADS='1'))
    _wait_for_epoch(rerun, trained / 'train.log', len(SIGNALS))
    log = (trained / 'train.log').read_text()
    assert re.search(r'resumed epoch: [1-9]', log)
    assert _epochs(log)[0] > 1


def _wait_for_epoch(running, log, epoch):
    """Until the training of this process is in the epoch or beyond."""
    log.unlink(missing_ok=True)
    while not (log.is_file() and max(_epochs(log.read_text()), default=0) > epoch):
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.05)


def _epochs(log):
    return [int(n) for n in re.findall(r'Epoch\(train\) +\[(\d+)\]', log)]


def _assert_refused(command, first):
    second = start(command, marked_env(OMP_NUM_THREADS='1'))
    out, _ = second.communicate()
    assert second.returncode == 2
    (line,) = [x for x in out.splitlines() if x.startswith('error: ')]
    assert f'is in use by process {first.pid} on ' in line
