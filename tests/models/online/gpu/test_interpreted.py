"""The files of tests that need Triton's interpreter, each in a process that has asked for it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = (
    'test_depthwise_kernels.py',
    'test_pointwise_kernels.py',
    'test_gpu_fold.py',
    'test_triton_units.py',
)


@pytest.mark.skipif(not importlib.util.find_spec('triton'), reason='triton is not installed')
@pytest.mark.parametrize('share', [12, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize('file', FILES)
def test_kernels(file, share):
    settings = dict(TRITON_INTERPRET='1', OMP_NUM_THREADS='1', KERNEL_CASES_SHARE=str(share))
    child = subprocess.run(
        [
            sys.executable,
            '-m',
            'pytest',
            '-o',
            'addopts=',
            '-q',
            '-x',
            '-p',
            'no:cacheprovider',
            file,
        ],
        env={**os.environ, **settings},
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
