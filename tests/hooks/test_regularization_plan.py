"""Phases, strengths, and pipelines that are changed in place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CustomDataset

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.hooks import DynamicRegularizationHook
from mmpretrain_mobileone_ext.hooks.training.dynamic_regularization import (
    LivePipeline,
    Phase,
    Plan,
    read_phases,
    strength_for,
)


def parameters(arch, **kwargs):
    net = ConfigurableMobileOne(arch=arch, deploy=True, **kwargs)
    return sum(p.numel() for p in net.parameters())


def test_strength_grows_with_the_variants():
    found = [strength_for(parameters(f's{i}')) for i in range(5)]
    assert found[:2] == [0, 0]
    assert found[4] == 1
    assert 0 < found[2] < found[3] < 1
    assert found[2:4] == pytest.approx([0.39, 0.64], abs=0.005)


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_strength_is_a_monotone_share(one, two):
    low, high = sorted((one, two))
    assert 0 <= strength_for(low) <= strength_for(high) <= 1


@given(st.lists(st.integers(1, 99), unique=True, max_size=5), st.integers(0, 99))
def test_the_last_phase_that_has_begun_is_in_force(begins, epoch):
    begins = [0, *sorted(begins)]
    plan = Plan(read_phases([dict(begin=b, resolution=b + 1) for b in begins]), 100)
    assert plan.at(epoch).resolution == max(b for b in begins if b <= epoch) + 1


def test_shares_are_of_the_run():
    plan = Plan(DynamicRegularizationHook().phases, 300)
    assert [plan.at(e).resolution for e in (0, 36, 37, 111, 112, 299)] == [
        160,
        160,
        192,
        192,
        224,
        224,
    ]


@pytest.mark.parametrize(
    ('phases', 'says'),
    [
        ([dict(begin=1)], 'the first must begin in 0'),
        ([dict(), dict(begin=5), dict(begin=5)], 'each later than'),
        ([dict(), dict(begin=300)], 'begins in epoch 300, but the run has 300'),
        ([dict(size=3)], r"unknown keys \['size'\]"),
        ([dict(begin=-1)], 'begin=-1 must be'),
        ([dict(begin=1.0)], r'begin=1.0 must be'),
        ([dict(begin=True)], 'begin=True must be'),
        ([dict(resolution=0)], 'resolution=0 must be'),
        ([dict(resolution=3.5)], 'resolution=3.5 must be'),
        ([dict(magnitude=-1)], 'magnitude=-1 must be'),
        ([dict(dropout=1)], r'dropout=1 must be a number in \[0, 1\)'),
        ([dict(label_smoothing='x')], "label_smoothing='x' must be"),
    ],
)
def test_phases_that_cannot_be(phases, says):
    with pytest.raises(SpecError, match=says):
        Plan(read_phases(phases), 300)


def test_what_only_some_phases_set_is_refused():
    plan = Plan((Phase(0, dropout=0.1), Phase(1)), 2)
    with pytest.raises(SpecError, match='dropout is set in some phases only'):
        plan.uses('dropout')
    assert not plan.uses('magnitude')


@pytest.mark.parametrize('strength', ['weak', -1, True, None])
def test_strengths_that_cannot_be(strength):
    with pytest.raises(SpecError, match='strength is'):
        DynamicRegularizationHook(strength=strength)


def dataset(*pipeline):
    return CustomDataset(data_root='/nowhere', pipeline=list(pipeline), lazy_init=True)


RANDAUG = dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=8)


def test_sizes_keep_their_proportions_and_come_back():
    data = dataset(
        dict(type='Resize', scale=(256, 128)),
        dict(type='ResizeEdge', scale=256),
        dict(type='RandomCrop', crop_size=224, padding=4),
    )
    resize, edge, crop = data.pipeline.transforms
    pipeline = LivePipeline(data)
    pipeline.set_resolution(112)
    assert (resize.scale, edge.scale, crop.crop_size) == ((128, 64), 128, (112, 112))
    pipeline.set_resolution(224)
    assert (resize.scale, edge.scale, crop.crop_size) == ((256, 128), 256, (224, 224))


def test_magnitude_reaches_each_policy_and_0_is_off():
    data = dataset(RANDAUG)
    augment = data.pipeline.transforms[0]
    pipeline = LivePipeline(data)
    assert pipeline.set_magnitude(0.25) == 2
    levels = {
        t.magnitude_level
        for t in augment.transforms
        if getattr(t, 'magnitude_range', None) is not None
    }
    assert levels == {2}
    assert len(augment.random_policy_indices()) == 2
    pipeline.set_magnitude(0)
    assert augment.random_policy_indices() == []
    pipeline.set_magnitude(1)
    assert augment.num_policies == 2
    assert augment.magnitude_level == 8


def test_wrapped_data_sets_are_found():
    one, two = dataset(RANDAUG), dataset(RANDAUG)
    joined = ConcatDataset([one, two], lazy_init=True)
    repeated = RepeatDataset(one, times=2, lazy_init=True)
    LivePipeline(repeated).set_magnitude(0.25)
    assert [d.pipeline.transforms[0].magnitude_level for d in (one, two)] == [2, 8]
    one.pipeline.transforms[0].magnitude_level = 8
    LivePipeline(joined).set_magnitude(0.5)
    assert [d.pipeline.transforms[0].magnitude_level for d in (one, two)] == [4, 4]


def test_nothing_to_change_is_an_error():
    pipeline = LivePipeline(dataset(dict(type='LoadImageFromFile')))
    with pytest.raises(SpecError, match='none of the transforms that set'):
        pipeline.set_resolution(3)
    with pytest.raises(SpecError, match='no RandAugment'):
        pipeline.set_magnitude(1)
    assert pipeline.set_magnitude(0) == 0  # nothing is off already


def test_joined_data_sets_keep_their_own_proportions():
    one = dataset(dict(type='RandomResizedCrop', scale=224))
    two = dataset(dict(type='RandomResizedCrop', scale=160))
    LivePipeline(ConcatDataset([one, two], lazy_init=True)).set_resolution(112)
    assert [d.pipeline.transforms[0].scale for d in (one, two)] == [(112, 112)] * 2


def test_a_magnitude_beyond_its_scale_is_refused():
    with pytest.raises(SpecError, match=r'magnitude 16 .* total_level=10'):
        LivePipeline(dataset(RANDAUG)).set_magnitude(2)


def test_all_is_put_back():
    data = dataset(dict(type='Resize', scale=256), RANDAUG, dict(type='Resize', scale_factor=2.0))
    before = str(data.pipeline)
    pipeline = LivePipeline(data)
    pipeline.set_resolution(64)
    pipeline.set_magnitude(0)
    assert str(data.pipeline) != before
    pipeline.restore()
    assert str(data.pipeline) == before


@pytest.mark.parametrize('epochs', [100, 300])
def test_shares_of_whole_epochs_are_whole(epochs):
    assert [Phase(begin=e / epochs).first_epoch(epochs) for e in range(epochs)] == list(
        range(epochs)
    )
