"""Knowledge distillation in real runs: the loss, what is not changed, and who cannot teach."""

import copy
from types import FunctionType

import numpy as np
import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg, randomize_norms
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from scipy.special import log_softmax
from toy_runner import toy_runner

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError, MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.hooks.training.distillation import _attach, _config, distillation_loss

SEED = dict(type='EpochSeedHook')
EMA = dict(type='EMAHook', momentum=0.3)
DEPLOY = dict(type='DeploySwitchHook')
RESNET = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
    backbone=dict(type='ResNet', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=512),
)


@HOOKS.register_module(force=True)
class LossSpy(Hook):
    """Keeps the losses of each step, the batch, and the model before it."""

    priority = 'LOWEST'

    def __init__(self):
        self.steps = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.model, self.batch = copy.deepcopy(runner.model), copy.deepcopy(data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append({name: float(value.detach()) for name, value in outputs.items()})


SPY = dict(type='LossSpy')


def spy_of(runner):
    return next(h for h in runner.hooks if isinstance(h, LossSpy))


def teacher_file(folder, cfg, **more):
    """A network with random statistics, saved; what a hook is given for it."""
    torch.manual_seed(3)
    model = randomize_norms(MODELS.build(cfg), seed=3)
    folder.mkdir(exist_ok=True)
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict(), **more), path)
    return model.eval(), dict(
        type='DistillationHook', teacher=dict(model=cfg), checkpoint=str(path)
    )


def numpy_loss(student, teacher, temperature):
    """From the formula, in float64."""
    said, wanted = (
        log_softmax(logits.detach().double().numpy() / temperature, 1)
        for logits in (student, teacher)
    )
    return temperature**2 * (np.exp(wanted) * (wanted - said)).sum(1).mean()


@pytest.mark.parametrize('temperature', [1, 4.0])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_the_loss_is_that_of_the_paper(temperature, dtype):
    student, teacher = (torch.randn(7, 5, dtype=dtype) * 3 for _ in range(2))
    found = distillation_loss(student, teacher, temperature)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert float(found) == pytest.approx(numpy_loss(student, teacher, temperature), rel=1e-5)
    assert float(distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('cfg', [classifier_cfg(), RESNET], ids=['ours', 'ResNet'])
def test_the_loss_of_a_step(tmp_path, cfg):
    teacher, hook = teacher_file(tmp_path / 't', cfg)
    runner = toy_runner(tmp_path, dict(hook, temperature=3.0, weight=0.25), SPY, epochs=1)
    runner.train()
    spy = spy_of(runner)
    data = spy.model.data_preprocessor(spy.batch, True)
    with torch.no_grad():
        labels = spy.model.head._get_loss(
            logits := spy.model.train()(data['inputs']), data['data_samples']
        )['loss']
        wanted = numpy_loss(logits, teacher(data['inputs']), 3.0)
    found = spy.steps[-1]
    assert found['loss_labels'] == pytest.approx(0.75 * float(labels), rel=1e-4)
    assert found['loss_teacher'] == pytest.approx(0.25 * wanted, rel=1e-4)
    assert found['loss'] == pytest.approx(found['loss_labels'] + found['loss_teacher'], rel=1e-6)


@pytest.mark.slow
def test_a_teacher_of_no_weight_changes_nothing(tmp_path):
    _, hook = teacher_file(tmp_path / 't', classifier_cfg())
    states = []
    for name, hooks in (('alone', []), ('taught', [dict(hook, weight=0)])):
        toy_runner(tmp_path / name, *hooks, SEED).train()
        states.append(load_checkpoint_file(tmp_path / name / 'epoch_2.pth')['state_dict'])
    assert_same_state(*states)


@pytest.mark.slow
def test_the_teacher_leaves_no_trace(tmp_path):
    """With every hook that copies a model: averages, folding, rounding."""
    teacher, hook = teacher_file(tmp_path / 't', classifier_cfg())
    before = copy.deepcopy(teacher.state_dict())
    quantized = dict(type='QuantizationHook', weights=4, start=1)
    runner = toy_runner(tmp_path, hook, EMA, DEPLOY, quantized, SEED, SPY)
    runner.train()
    file = load_checkpoint_file(tmp_path / 'epoch_2.pth')
    plain = set(MODELS.build(classifier_cfg()).state_dict())
    for state in (file['state_dict'], file['ema_state_dict']):
        keys = {k.replace('module.', '', 1) for k in state if '.quantizer.' not in k}
        assert keys - {'steps'} == plain
    assert_same_state(load_checkpoint_file(hook['checkpoint'])['state_dict'], before)
    # What is copied while it trains does not copy the teacher.
    copied = spy_of(runner).model._forward_hooks.values()
    assert [type(own) for own in copied] == [FunctionType]
    assert not runner.model._forward_hooks
    assert not runner.model.head._forward_hooks
    held = {id(p) for group in runner.optim_wrapper.param_groups for p in group['params']}
    assert held == {id(p) for p in runner.model.parameters()}


@pytest.mark.slow
def test_what_the_student_learns_is_the_teacher(tmp_path):
    """Without labels it comes to agree with a teacher who is wrong."""
    _, hook = teacher_file(tmp_path / 't', classifier_cfg())
    runner = toy_runner(tmp_path, dict(hook, weight=1.0), SPY, epochs=12)
    runner.train()
    losses = [step['loss_teacher'] for step in spy_of(runner).steps]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])


@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path):
    _, hook = teacher_file(tmp_path / 't', classifier_cfg())
    toy_runner(tmp_path / 'whole', hook, SEED, epochs=3).train()
    toy_runner(tmp_path / 'cut', hook, SEED, epochs=2).train()
    toy_runner(tmp_path / 'cut', hook, SEED, epochs=3, resume=True).train()
    whole, cut = (
        load_checkpoint_file(tmp_path / n / 'epoch_3.pth')['state_dict'] for n in ('whole', 'cut')
    )
    assert_same_state(whole, cut)


def test_it_teaches_in_half_precision(tmp_path):
    """Logits are bfloat16 there; the loss is not."""
    teacher, _ = teacher_file(tmp_path / 't', classifier_cfg())
    model = MODELS.build(classifier_cfg()).train()
    handles = _attach(model, teacher, 4.0, 0.9)
    samples = [DataSample().set_gt_label(i % 3) for i in range(8)]
    x = torch.randn(8, 3, 16, 16)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        half = model(x, samples, mode='loss')
    half['loss_teacher'].backward()
    full = model(x, samples, 'loss')
    assert half['loss_teacher'].dtype == torch.float32
    assert_close([full['loss_teacher']], [half['loss_teacher']], 2e-2)
    assert not torch.equal(full['loss_teacher'], half['loss_teacher'])
    assert all(p.grad is None for p in teacher.parameters())
    assert model.head.fc.weight.grad.abs().sum() > 0
    for handle in handles:
        handle.remove()
    assert set(model(x, samples, mode='loss')) == {'loss'}


@pytest.mark.slow
def test_a_folded_teacher_says_the_same(tmp_path):
    teacher, hook = teacher_file(tmp_path / 't', classifier_cfg())
    torch.save(dict(state_dict=teacher.switch_to_deploy().state_dict()), tmp_path / 'folded.pth')
    losses = []
    for path in (hook['checkpoint'], str(tmp_path / 'folded.pth')):
        runner = toy_runner(tmp_path / 'run', dict(hook, checkpoint=path), SEED, SPY, epochs=1)
        runner.train()
        losses.append(torch.tensor([s['loss_teacher'] for s in spy_of(runner).steps]))
    assert_close([losses[0]], [losses[1]], 1e-4)


OTHER_MEAN = dict(type='ClsDataPreprocessor', mean=[99.0] * 3, std=[50.0] * 3)
REVERSED = dict(type='ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, to_rgb=True)
MULTI = dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=16)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(head=dict(type='LinearClsHead', num_classes=5, in_channels=16)), 'has 5 classes'),
        pytest.param(
            dict(data_preprocessor=OTHER_MEAN),
            r'mean \[99.0\].*model\'s normalized with mean',
            marks=pytest.mark.slow,
        ),
        (dict(data_preprocessor=REVERSED), 'channels reversed'),
        pytest.param(dict(head=MULTI), 'MultiLabelLinearClsHead', marks=pytest.mark.slow),
        pytest.param(dict(head=None), 'has no head', marks=pytest.mark.slow),
    ],
)
def test_who_cannot_teach_is_told_before_the_first_step(tmp_path, changes, words):
    _, hook = teacher_file(tmp_path / 't', {**classifier_cfg(), **changes})
    runner = toy_runner(tmp_path, hook, SPY)
    with pytest.raises(MobileOneExtError, match=words) as caught:
        runner.train()
    assert str(caught.value).startswith('DistillationHook: ')
    assert '\n' not in str(caught.value)
    assert not spy_of(runner).steps


def test_classes_in_another_order_are_refused(tmp_path):
    meta = dict(dataset_meta=dict(classes=('light', 'grey', 'dark')))
    _, hook = teacher_file(tmp_path / 't', classifier_cfg(), meta=meta)
    with pytest.raises(SpecError, match=r'another order|light'):
        toy_runner(tmp_path, hook).train()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    _, hook = teacher_file(tmp_path / 't', RESNET)
    hook['teacher'] = dict(model=dict(RESNET, backbone=dict(type='ResNet', depth=34)))
    with pytest.raises(CheckpointError, match='does not fit ImageClassifier'):
        toy_runner(tmp_path, hook).train()


@pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlmodel', 'm.aimodel'])
def test_a_file_for_phones_is_refused(tmp_path, name):
    with pytest.raises(SpecError, match='a checkpoint of torch'):
        toy_runner(tmp_path, dict(type='DistillationHook', teacher='x.py', checkpoint=name))


def test_a_config_that_is_not_there(tmp_path):
    hook = dict(type='DistillationHook', teacher='none.py', checkpoint='x.pth')
    with pytest.raises(SpecError, match=r"teacher='none.py': no such config"):
        toy_runner(tmp_path, hook).train()


def test_a_config_of_a_package_is_found(tmp_path):
    assert _config('mmpretrain::resnet/resnet18_8xb32_in1k.py').model.backbone.depth == 18
    ours = _config('mmpretrain_mobileone_ext::digits/mobileone-tiny_bs64_digits.py')
    assert ours.model.head.in_channels == 128
