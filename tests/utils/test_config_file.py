"""New-style configs, whose types are classes, come in as names."""

import pytest
from mmengine.config import Config
from mmpretrain import get_model
from torch import nn

from mmpretrain_mobileone_ext import DeployableClassifier
from mmpretrain_mobileone_ext.commands.training.ablation.grid import grid_from
from mmpretrain_mobileone_ext.commands.training.ablation.run import _config_of
from mmpretrain_mobileone_ext.export.source import _read_config
from mmpretrain_mobileone_ext.utils.config import read_config, types_by_name

DATA = """
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs

pipeline = [dict(type=LoadImageFromFile), dict(type=PackInputs)]
parts = [dict(type=CustomDataset, data_root='a', pipeline=pipeline)] * 2
test_dataloader = dict(
    batch_size=2, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=ConcatDataset, datasets=parts))
"""
LAZY = """
from mmengine.config import read_base
from mmpretrain.models import GlobalAveragePooling, LinearClsHead
from torch import nn

from mmpretrain_mobileone_ext import (
    ConfigurableMobileOne, DeployableClassifier, DeploySwitchHook)

with read_base():
    from .data import *

model = dict(
    type=DeployableClassifier,
    backbone=dict(
        type=ConfigurableMobileOne,
        arch=dict(num_blocks=(1, 1, 1), width_factor=1.0),
        num_conv_branches=2, base_channels=(8, 8, 8), stem_stride=1,
        act_cfg=dict(type=nn.ReLU6)),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=3, in_channels=8))
custom_hooks = [dict(type=DeploySwitchHook)]
default_scope = 'mmpretrain'
unused = dict(kind=nn.GELU)
ablation = dict(variants={
    'relu': {},
    'silu': {'model.backbone.act_cfg.type': nn.SiLU}})
"""


@pytest.fixture
def lazy(tmp_path):
    (tmp_path / 'data.py').write_text(DATA, 'utf-8')
    path = tmp_path / 'lazy.py'
    path.write_text(LAZY, 'utf-8')
    return path


def types(value):
    if isinstance(value, dict):
        return [item for key, item in value.items() if key == 'type'] + types(list(value.values()))
    return [t for v in value for t in types(v)] if isinstance(value, (list, tuple)) else []


def test_mmpretrain_alone_cannot_build_it(lazy):
    with pytest.raises(TypeError, match='must be a str'):
        get_model(Config.fromfile(str(lazy)))


def test_every_type_is_a_name_and_the_rest_is_as_it_was(lazy):
    cfg = read_config(lazy)
    found = types(cfg.to_dict())
    assert len(found) >= 15
    assert all(isinstance(name, str) for name in found)
    assert cfg.unused == dict(kind=nn.GELU)
    assert cfg.model.backbone.act_cfg.type.endswith('.ReLU6')
    assert cfg.filename == str(lazy)
    assert 'CustomDataset' not in cfg  # what it imports is no option


def test_it_builds_and_can_be_written_and_read_again(lazy, tmp_path):
    cfg = read_config(lazy)
    model = get_model(cfg)
    assert type(model) is DeployableClassifier
    written = tmp_path / 'written.py'
    cfg.dump(written)
    again = read_config(written)
    assert sorted(types(again.to_dict())) == sorted(types(cfg.to_dict()))
    assert {k: v.shape for k, v in get_model(again).state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_options_merge_into_it(lazy):
    cfg = read_config(lazy)
    cfg.merge_from_dict(
        {'model.backbone.num_conv_branches': 3, 'custom_hooks.0.type': 'EpochSeedHook'}
    )
    assert cfg.model.backbone.num_conv_branches == 3
    assert cfg.custom_hooks[0].type == 'EpochSeedHook'


def test_variants_of_an_ablation_build(lazy):
    cfg = read_config(lazy)
    trials = {t.variant: t for t in grid_from(cfg.ablation).trials()}
    kinds = {
        name: {type(m).__name__ for m in get_model(_config_of(cfg, trial)).backbone.modules()}
        for name, trial in trials.items()
    }
    assert 'ReLU6' in kinds['relu']
    assert 'SiLU' not in kinds['relu']
    assert 'SiLU' in kinds['silu']
    assert 'ReLU6' not in kinds['silu']


@pytest.mark.parametrize('given', [str, lambda p: Config.fromfile(str(p))])
def test_an_export_takes_it_as_file_or_object(lazy, given):
    cfg, name = _read_config(given(lazy), None)
    assert name == 'lazy.py'
    assert all(isinstance(t, str) for t in types(cfg.to_dict()))


def test_an_old_config_is_left_alone():
    cfg = Config(dict(model=dict(type='X'), kept=nn.GELU))
    assert types_by_name(cfg) is cfg


def test_a_type_that_no_name_leads_to_stays():
    class Local:
        pass

    cfg = types_by_name(Config(dict(a=dict(type=Local), b=dict(type=nn.ReLU))))
    assert cfg.a.type is Local
    assert cfg.b.type == 'torch.nn.modules.activation.ReLU'
