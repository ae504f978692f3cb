"""Checkpoints of others go straight into an export."""

from pathlib import Path

import pytest
import torch
from helpers import classifier_cfg, randomize_norms
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.export.source import load_source
from mmpretrain_mobileone_ext.models.loading.state_dict import (
    APPLE,
    MMPRETRAIN,
    TIMM,
    recognize,
    translate,
)


@pytest.fixture(scope='module')
def ours():
    model = MODELS.build(classifier_cfg())
    return randomize_norms(model).eval()


@pytest.mark.parametrize('layout', [TIMM, APPLE], ids=lambda v: v.name)
@pytest.mark.parametrize('form', ['branches', 'folded'])
def test_the_exporter_loads_them_as_ours(ours, layout, form, tmp_path):
    state = ours.state_dict()
    if form == 'folded':
        state = MODELS.build(classifier_cfg()).eval()
        state.load_state_dict(ours.state_dict())
        state = state.switch_to_deploy().state_dict()
    known = recognize(state, (MMPRETRAIN,))
    path = tmp_path / 'theirs.pth'
    torch.save(dict(state_dict=translate(state, known, layout)), path)
    config = tmp_path / 'config.py'
    Config(dict(model=classifier_cfg())).dump(config)
    source = load_source(Path(config), path)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(source.model(images), ours(images), rtol=1e-4, atol=1e-5)
