"""The classifier: folding, checkpoints, heads, mmpretrain's Python API."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg, generator, randomize_norms
from mmengine.optim import OptimWrapper
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain import get_model, inference_model
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmpretrain_mobileone_ext.errors import CheckpointError, FoldError

CONFIG = Path(__file__).parents[2] / 'configs/digits'
CONFIG = CONFIG / 'mobileone-tiny_bs64_digits.py'


def classifier(num_classes=3, **backbone):
    cfg = classifier_cfg(num_classes=num_classes, **backbone)
    return randomize_norms(MODELS.build(cfg)).eval()


def batch():
    rng = generator()
    return dict(
        inputs=torch.randint(0, 256, (4, 3, 16, 16), generator=rng),
        data_samples=[DataSample().set_gt_label(i % 3) for i in range(4)],
    )


def images():
    return torch.randn(4, 3, 16, 16, generator=generator())


@torch.no_grad()
def test_switching_returns_self_and_keeps_the_output():
    model = classifier()
    wanted = model(images())
    assert model.switch_to_deploy() is model
    assert model.backbone.deploy
    assert_close(wanted, model(images()), 1e-5)
    before = copy.deepcopy(model.state_dict())
    assert model.switch_to_deploy() is model
    assert_same_state(before, model.state_dict())


def test_a_failing_switch_changes_nothing():
    model = MODELS.build(classifier_cfg(norm_cfg=dict(type='GN', num_groups=1)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FoldError, match='GroupNorm'):
        model.switch_to_deploy()
    assert_same_state(before, model.state_dict())


def test_it_predicts_as_its_parent():
    model = classifier()
    parent = MODELS.build(classifier_cfg('ImageClassifier')).eval()
    assert type(parent) is ImageClassifier
    parent.load_state_dict(model.state_dict())
    for a, b in zip(model.test_step(batch()), parent.val_step(batch())):
        assert torch.equal(a.pred_score, b.pred_score)


@pytest.mark.parametrize('deploy', [False, True])
def test_a_training_checkpoint_loads_in_both_forms(deploy, tmp_path):
    model = classifier()
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'epoch_1.pth'))
    other = classifier(deploy=deploy)
    load_checkpoint(other, str(tmp_path / 'epoch_1.pth'))
    wanted = model.switch_to_deploy() if deploy else model
    assert_same_state(wanted.state_dict(), other.state_dict())


def test_a_deploy_checkpoint_says_how_to_build_the_model(tmp_path):
    state = classifier().switch_to_deploy().state_dict()
    with pytest.raises(CheckpointError, match=r'model\.backbone\.deploy=True'):
        load_state_dict(classifier(), state, strict=False)


@pytest.mark.parametrize('how', ['missing', 'extra'])
@pytest.mark.parametrize('deploy', [False, True])
def test_keys_outside_the_head_must_fit(how, deploy):
    state = classifier().state_dict()
    if how == 'missing':
        state = {k: v for k, v in state.items() if 'stage2.1' not in k}
    else:
        state['neck.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r'stage2|neck'):
        load_state_dict(classifier(deploy=deploy), state, strict=False)


def replaced_head(kind):
    """A loaded model whose head the checkpoint does not fill."""
    state = classifier(num_classes=5).state_dict()
    if kind == 'missing':
        state = {k: v for k, v in state.items() if not k.startswith('head')}
    model = classifier()
    load_state_dict(model, state, strict=False)
    return model, state


@pytest.mark.parametrize('kind', ['missing', 'reshaped'])
def test_a_replaced_head_does_not_predict_before_it_is_trained(kind):
    model, state = replaced_head(kind)
    own = model.backbone.state_dict()
    assert all(torch.equal(state[f'backbone.{k}'], v) for k, v in own.items())
    for twin in (model, copy.deepcopy(model)):
        for step in (twin.val_step, twin.test_step):
            with pytest.raises(CheckpointError) as error:
                step(batch())
            assert 'head.fc.weight' in str(error.value)
            assert 'num_classes' in str(error.value)


def test_a_validation_loss_does_not_count_as_training():
    model, _ = replaced_head('missing')
    model(**model.data_preprocessor(batch()), mode='loss')
    with pytest.raises(CheckpointError):
        model.val_step(batch())


@pytest.mark.parametrize('how', ['trained', 'loaded'])
def test_a_replaced_head_predicts_once_it_has_weights(how):
    model, _ = replaced_head('reshaped')
    if how == 'loaded':
        model.load_state_dict(classifier().state_dict())
    else:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model.train().train_step(batch(), OptimWrapper(optimizer))
    assert len(model.eval().val_step(batch())) == 4


def test_a_head_with_keys_left_over_predicts_if_it_is_filled():
    model = classifier()
    state = dict(model.state_dict(), **{'head.old.weight': torch.zeros(1)})
    load_state_dict(model, state, strict=False)
    assert len(model.val_step(batch())) == 4


def test_the_snippet_of_the_readme(tmp_path):
    model = get_model(str(CONFIG))
    randomize_norms(model)
    checkpoint = str(tmp_path / 'epoch_1.pth')
    save_checkpoint(
        dict(
            state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=list('abcdefghij')))
        ),
        checkpoint,
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

    model = get_model(str(CONFIG), pretrained=checkpoint)
    wanted = inference_model(model, image)
    model.switch_to_deploy()
    got = inference_model(model, image)
    assert got['pred_class'] == wanted['pred_class']
    assert got['pred_class'] in 'abcdefghij'
    np.testing.assert_allclose(got['pred_scores'], wanted['pred_scores'], atol=1e-5)
