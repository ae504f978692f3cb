"""The form of models of all kinds, wrapped or not."""

import pytest
from helpers import classifier_cfg
from mmengine.model import BaseTTAModel
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.models.deploy import form_of

REPVGG = dict(type='RepVGG', arch='A0')
RESNET = dict(type='ResNet', depth=18)


class Views(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.mark.parametrize('cfg', [classifier_cfg(), REPVGG])
def test_branches_until_folded(cfg):
    model = MODELS.build(cfg)
    assert form_of(model) == 'branches'
    assert form_of(switch_to_deploy(model)) == 'folded'


def test_one_block_left_is_not_folded():
    model = MODELS.build(classifier_cfg())
    model.backbone.stage1.apply(switch_to_deploy)
    assert form_of(model) == 'branches'


def test_nothing_to_fold():
    assert form_of(MODELS.build(RESNET)) == 'plain'


def test_inside_of_a_tta_model():
    folded = switch_to_deploy(MODELS.build(classifier_cfg()))
    assert form_of(Views(folded)) == 'folded'


def test_core_ml_program():
    model = MODELS.build(dict(type='CoreMLClassifier'))
    assert form_of(model) == 'Core ML'
