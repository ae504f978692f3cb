"""A small network under the name s0, for tests that run whole steps."""

import pytest
from mmpretrain.models.backbones.mobileone import MobileOne

from mmpretrain_mobileone_ext.models.spec import PRESETS

TINY = dict(
    num_blocks=[1, 2, 1, 1],
    width_factor=[0.25] * 4,
    num_conv_branches=[2] * 4,
    num_se_blocks=[0, 0, 0, 1],
)


@pytest.fixture(scope='module')
def tiny_s0():
    """MMPretrain's table and ours name a tiny network 's0'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MobileOne.arch_zoo, 's0', TINY)
        patch.setitem(PRESETS, 's0', {k: tuple(v) for k, v in TINY.items()})
        yield
