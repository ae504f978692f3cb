"""MMPretrain's own tests of MobileOne, on our classes.

Cases of its tests/test_models/test_backbones/test_mobileone.py, written down again for its
``MobileOneBlock`` and ``MobileOne``; what is imported is ours. Errors are ours too: always a
``SpecError``.
"""

import pytest
import torch
from helpers import randomize_norms
from mmengine.runner import load_checkpoint, save_checkpoint
from mmpretrain.models.backbones import MobileOne as TheirMobileOne
from mmpretrain.models.backbones.mobileone import MobileOneBlock as TheirBlock
from mmpretrain.models.utils import SELayer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpretrain_mobileone_ext import ConfigurableMobileOne as MobileOne
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models import MobileOneBlock

build_block = MobileOneBlock.from_arguments


def check_norm_state(modules, train_state):
    return all(m.training == train_state for m in modules if isinstance(m, _BatchNorm))


# --- the block ---------------------------------------------------------------
@pytest.mark.parametrize(
    ('args', 'options', 'side'),
    [
        ((5, 10, 3, 1), dict(stride=1), 16),
        ((5, 10, 3, 4), dict(stride=1), 16),
        ((5, 10, 1, 1), dict(stride=1, padding=0), 16),
        ((10, 10, 3, 4), dict(stride=2), 8),
        ((10, 10, 3, 4), dict(padding=2, dilation=2), 16),
        ((10, 10, 3, 4), dict(groups=2), 16),
    ],
)
def test_mobileone_block(args, options, side):
    block = randomize_norms(build_block(*args, **options)).eval()
    x = torch.randn(1, args[0], 16, 16)
    y = block(x)
    skip = args[0] == args[1] and options.get('stride', 1) == 1
    assert (block.branch_norm is not None) == skip
    assert (block.branch_scale is not None) == (args[2] > 1)
    assert len(block.branch_conv_list) == args[3]
    assert not hasattr(block, 'branch_reparam')
    assert torch.equal(block.se(x), x)
    assert y.shape == torch.Size((1, args[1], side, side))
    block.switch_to_deploy()
    y_deploy = block(x)
    assert hasattr(block, 'branch_reparam')
    assert torch.allclose(y, y_deploy, atol=1e-5, rtol=1e-4)
    assert not hasattr(block, 'branch_norm')


def test_mobileone_block_with_se():
    block = build_block(32, 32, 3, 4, se_cfg=dict(ratio=4)).eval()
    x = torch.randn(1, 32, 16, 16)
    y = block(x)
    assert isinstance(block.se, SELayer)
    assert y.shape == torch.Size((1, 32, 16, 16))
    block.switch_to_deploy()
    assert torch.allclose(y, block(x), atol=1e-5, rtol=1e-4)


def test_mobileone_block_with_deploy():
    block = build_block(8, 8, 3, 4, stride=1, deploy=True).eval()
    assert isinstance(block.branch_reparam, nn.Conv2d)
    assert not hasattr(block, 'branch_norm')
    assert not hasattr(block, 'branch_scale')
    assert not hasattr(block, 'branch_conv_list')
    assert block(torch.randn(1, 8, 16, 16)).shape == torch.Size((1, 8, 16, 16))
    block.switch_to_deploy()


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_the_same_arguments_make_the_same_block(kernel_size):
    args = dict(kernel_size=kernel_size, num_convs=2, padding=kernel_size // 2)
    theirs = randomize_norms(TheirBlock(8, 8, **args)).eval()
    ours = build_block(8, 8, **args).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 9, 7)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


def test_a_padding_that_changes_the_size_is_refused():
    TheirBlock(8, 8, 3, 1, padding=0)  # only to fail when it runs
    with pytest.raises(SpecError, match='padding is 0; allowed: 1'):
        build_block(8, 8, 3, 1, padding=0)


# --- the backbone ------------------------------------------------------------
ARCH = dict(
    num_blocks=[2, 4, 14, 1],
    width_factor=[0.75, 0.75, 0.75, 0.75],
    num_conv_branches=[1, 1, 1, 1],
    num_se_blocks=[0, 0, 5, 1],
)


@pytest.mark.parametrize(
    ('options', 'theirs'),
    [
        (dict(arch=[4, 6, 16, 1]), TypeError),
        (dict(arch='S3'), AssertionError),
        (dict(arch=dict(num_blocks=[2, 4, 14, 1])), KeyError),
        (dict(arch=dict(ARCH, width_factor=[0.75] * 3)), AssertionError),
        (dict(arch=dict(ARCH, num_conv_branches=[1] * 3)), AssertionError),
        (dict(arch=dict(ARCH, num_se_blocks=[0, 0, 5, 2])), ValueError),
        (dict(arch='s0', out_indices=dict()), AssertionError),
        (dict(arch='s0', out_indices=[5]), AssertionError),
        (dict(arch='s0', out_indices=[-5]), AssertionError),
    ],
)
def test_what_mmpretrain_refuses_is_refused_by_one_error(options, theirs):
    with pytest.raises(theirs):
        TheirMobileOne(**options)
    with pytest.raises(SpecError):
        MobileOne(**options)


def test_norm_state():
    model = MobileOne('s0')
    model.train()
    assert check_norm_state(model.modules(), True)


def test_first_stage_frozen():
    frozen_stages = 1
    model = MobileOne('s0', frozen_stages=frozen_stages)
    model.train()
    for name in ('stage0', *model.stages[:frozen_stages]):
        stage = getattr(model, name)
        assert check_norm_state(stage.modules(), False)
        assert not any(p.requires_grad for p in stage.parameters())


def test_norm_eval():
    model = MobileOne('s0', norm_eval=True)
    model.train()
    assert check_norm_state(model.modules(), False)


@pytest.mark.parametrize(
    ('out_indices', 'channels'),
    [((3,), [1024]), ((0, 1, 2, 3), [48, 128, 256, 1024]), (-1, [1024]), ((1, -1), [128, 1024])],
)
@torch.no_grad()
def test_forward(out_indices, channels):
    model = MobileOne('s0', out_indices=out_indices)
    model.init_weights()
    model.eval()
    feats = model(torch.randn(1, 3, 64, 64))
    assert isinstance(feats, tuple)
    assert [f.shape[1] for f in feats] == channels


@torch.no_grad()
def test_deploy_and_load_of_a_deploy_checkpoint(tmp_path):
    model = randomize_norms(MobileOne('s0', out_indices=(0, 1, 2, 3))).eval()
    imgs = torch.randn(1, 3, 64, 64)
    feats = model(imgs)
    for module in model.modules():
        if isinstance(module, MobileOneBlock):
            assert not hasattr(module, 'branch_reparam')
    model.switch_to_deploy()
    for module in model.modules():
        if isinstance(module, MobileOneBlock):
            assert isinstance(module.branch_reparam, nn.Conv2d)
            assert module.branch_reparam.bias is not None
    outputs = model(imgs)
    for feat, output in zip(feats, outputs):
        assert torch.allclose(feat, output, rtol=1e-4, atol=1e-4 * feat.abs().max())
    path = str(tmp_path / 'ckpt.pth')
    save_checkpoint(model.state_dict(), path)
    loaded = MobileOne('s0', out_indices=(0, 1, 2, 3), deploy=True).eval()
    load_checkpoint(loaded, path, strict=True)
    for output, again in zip(outputs, loaded(imgs)):
        assert torch.equal(output, again)
