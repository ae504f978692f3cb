"""What would end a run after its training ends it before."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.finetune import finetune_config, read_folder
from mmpretrain_mobileone_ext.commands.training.finetune.rehearsal import rehearse
from mmpretrain_mobileone_ext.commands.training.finetune.settings import has_switch
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import MobileOneExtError, ProgramError
from mmpretrain_mobileone_ext.utils.config import MIM

DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / 'data' / name / f'{index}.png')
    return read_folder(tmp_path / 'data')


def rehearsed(folder, tmp_path, **changes):
    recipe = Config.fromfile(DIGITS)
    recipe.merge_from_dict(changes)
    cfg = finetune_config(recipe, folder, tmp_path)
    before = cfg.pretty_text
    try:
        rehearse(cfg, tmp_path / 'model.mlpackage')
    finally:
        assert cfg.pretty_text == before
        assert not (tmp_path / 'model.mlpackage').exists()


def test_a_recipe_that_works(folder, tmp_path):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    rehearsed(
        folder,
        tmp_path,
        **{
            'train_dataloader.num_workers': 2,
            'train_dataloader.persistent_workers': True,
            'data_preprocessor.batch_augments': dict(augments=[dict(type='Mixup', alpha=0.8)]),
        },
    )
    assert torch.equal(torch.rand(3), wanted)  # draws nothing


def test_a_network_with_nothing_to_fold(folder, tmp_path):
    changes = {
        'model.backbone': dict(_delete_=True, type='ResNet', depth=18),
        'model.head.in_channels': 512,
    }
    recipe = Config.fromfile(DIGITS)
    recipe.merge_from_dict(changes)
    assert not has_switch(finetune_config(recipe, folder, tmp_path))
    rehearsed(folder, tmp_path, **changes)


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        (
            {
                'model.head': dict(
                    _delete_=True, type='MultiLabelLinearClsHead', num_classes=9, in_channels=128
                )
            },
            'exported: MultiLabelLinearClsHead predicts several labels',
        ),
        ({'model.head.in_channels': 7}, 'exported: .*does not run on images'),
        (
            {
                'model.head.loss': dict(
                    _delete_=True, type='CrossEntropyLoss', class_weight=[1.0] * 9
                )
            },
            'a training step fails',
        ),
        ({'train_dataloader.drop_last': True}, 'no batch of 64, and drop_last'),
        ({'model.backbone.arch': 's9'}, 'cannot be built'),
        ({'val_evaluator': dict(type='NoScore')}, 'the test fails'),
        (
            {
                'test_dataloader.dataset.pipeline': [
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=32),
                    dict(type='Normalize', mean=[0.0] * 3, std=[1.0] * 3),
                    dict(type='PackInputs'),
                ]
            },
            'exported: .*Normalize step',
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, says, folder, tmp_path):
    with pytest.raises(MobileOneExtError, match=says) as caught:
        rehearsed(folder, tmp_path, **changes)
    assert str(caught.value).startswith(str(DIGITS))
    assert len(str(caught.value)) < 700


def test_without_coremltools(folder, tmp_path, monkeypatch):
    def missing():
        raise ProgramError('pip install it')

    monkeypatch.setattr(quiet, 'coremltools', missing)
    with pytest.raises(MobileOneExtError, match='exported: pip install it'):
        rehearsed(folder, tmp_path)
