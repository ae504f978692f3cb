"""Exactly the known-harmless noise of coremltools is dropped."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest
import torch
from runtime_kit import save_torch

from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ProgramError

HARMLESS = [
    "Failed to load _MLModelProxy: No module named 'x.libcoremlpython'",
    "Failed to load _MLComputePlanProxy: No module named 'x'",
    'scikit-learn version 1.9.1 is not supported. Minimum required ...',
    'Torch version 2.14.1+cu130 has not been tested with coremltools.',
]
HARMFUL = [
    'Fail to import BlobReader from libmilstoragepython. no such file',
    'Failed to load weights',
    'Model is not in eval mode.',
]


def test_import_is_lazy_and_prints_nothing():
    code = (
        'import sys\n'
        'import mmpretrain_mobileone_ext.coreml as package\n'
        "assert 'load_program' in dir(package)\n"
        'package.load_program\n'
        "assert 'coremltools' not in sys.modules\n"
        "print('----', file=sys.stderr)\n"
        'from mmpretrain_mobileone_ext.coreml.program import quiet\n'
        'assert quiet.coremltools().__version__\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split('----\n')[1] == ''
    assert done.stdout == ''


def test_only_known_messages_are_dropped(caplog):
    logger = logging.getLogger('coremltools')
    with quiet._without_records(quiet._IMPORT_NOISE):
        for message in HARMLESS + HARMFUL:
            logger.warning(message)
    assert caplog.messages == HARMFUL
    logger.warning(HARMLESS[0])
    assert caplog.messages == [*HARMFUL, HARMLESS[0]]


def test_conversion_is_quiet_and_restores(tmp_path, capfd):
    ops = quiet.module('coremltools.converters.mil.frontend.torch.ops')
    before = ops._tqdm
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        with quiet.conversion() as ct:
            save_torch(
                torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)).eval(),
                tmp_path,
                torch.rand(1, 3, 4, 4),
                inputs=[ct.TensorType(name='x', shape=(1, 3, 4, 4))],
            )
            warnings.warn('something else', UserWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ['something else']
    assert capfd.readouterr().err == ''
    assert ops._tqdm is before
    assert list(warnings.filters) == filters


def test_missing_coremltools_says_how_to_install():
    with pytest.raises(ProgramError, match=r'pip install .*\[coreml\]'):
        quiet.module('coremltools.no_such_part')
