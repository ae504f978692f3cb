"""Where there is no triton, or no GPU, nothing of it is asked for."""

import subprocess
import sys

import pytest
import torch

from mmpretrain_mobileone_ext.models.online import gpu
from mmpretrain_mobileone_ext.models.spec import UnitSpec

WITHOUT = """
import sys
sys.modules['triton'] = None
import mmpretrain_mobileone_ext.models.online.gpu as gpu
import torch
assert not gpu.available(torch.zeros(1, 1, 1, 1))
assert not gpu._has_triton()
assert not [name for name in sys.modules if name.startswith('triton.')]
"""


def test_importing_the_package_imports_no_triton():
    child = [sys.executable, '-c', WITHOUT]
    subprocess.run(child, check=True, timeout=300)


def test_images_on_a_cpu_have_no_kernels():
    assert not gpu.available(torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize(
    'unit',
    [
        dict(kernel_size=3, groups=4, stride=3),
        dict(kernel_size=5, groups=4),
        dict(kernel_size=3, groups=4, dilation=2),
        dict(kernel_size=3, groups=2),
        dict(kernel_size=3),
        dict(kernel_size=1, stride=2),
    ],
)
def test_other_units_have_none_either(unit):
    spec = UnitSpec('other', 4, 4, **unit)
    assert gpu.patch_conv(spec) is None
    assert gpu.folding(spec, [1e-5]) is None


@pytest.mark.parametrize('version', ['2.1.0', '3.2.0'])
def test_old_tritons_keep_no_tuples(version, monkeypatch):
    class Old:
        __version__ = version

    monkeypatch.setitem(sys.modules, 'triton', Old)
    assert not gpu._has_triton.__wrapped__()
