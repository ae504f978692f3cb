"""Candidates: same weights, right arguments, timm or not."""

import sys
from types import ModuleType

import pytest
import torch
from helpers import assert_close, assert_same_state
from torch import nn

from mmpretrain_mobileone_ext.commands.benchmark.training import candidates
from mmpretrain_mobileone_ext.commands.benchmark.training.candidates import (
    FORMS,
    BenchmarkOptions,
    build_candidate,
    build_candidates,
    choose_forms,
    plain_form,
    reference_state,
)
from mmpretrain_mobileone_ext.commands.benchmark.training.step import make_batch
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models.quantization import quantizers


@pytest.fixture
def state():
    return reference_state('s0', seed=0)


def test_forms_are_one_network():
    built = build_candidates(['mmpretrain', 'branches', 'folded'], 's0', 'cpu')
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    maps = []
    for candidate in built:
        assert candidate.net.training
        candidate.net.double().eval()
        maps.append(candidate.last_map(images))
    assert maps[0].shape == (2, 1024, 1, 1)
    assert_close(maps[0], maps[1], 1e-10)
    assert_close(maps[0], maps[2], 1e-5)  # folded and rounded in float32


def test_quantized_forms_round_what_they_train():
    built = build_candidates(['auto', 'w8', 'w8a8'], 's0', 'cpu')
    images = torch.rand(2, 3, 64, 64)
    whole, *rounded = (c.last_map(images).detach() for c in built)
    assert not torch.equal(whole, rounded[0])
    assert not torch.equal(*rounded)
    settings = [{(q.weights, q.activations) for q in quantizers(c.net)} for c in built]
    assert settings == [set(), {(8, 0)}, {(8, 8)}]


def test_weights_come_from_the_seed_alone(state):
    before = torch.random.get_rng_state()
    assert_same_state(state, reference_state('s0', seed=0))
    assert torch.equal(before, torch.random.get_rng_state())
    other = reference_state('s0', seed=1)
    assert not any(torch.equal(other[k], v) for k, v in state.items() if v.ndim)


def test_dtype_is_as_asked(state):
    candidate = build_candidate('branches', 's0', state, 'cpu', torch.float64)
    dtypes = {p.dtype for p in candidate.net.parameters()}
    assert dtypes == {torch.float64}


@pytest.mark.parametrize(
    ('form', 'arguments'),
    [
        ('branches', dict(online_reparam=False)),
        ('auto', dict(online_reparam='auto')),
        ('moments', dict(online_reparam=True)),
        ('memory', dict(online_reparam='memory')),
        ('folded', dict(deploy=True)),
    ],
)
def test_a_form_is_an_argument_of_our_backbone(monkeypatch, form, arguments):
    given = {}

    class Recorder(nn.Linear):
        def __init__(self, **kwargs):
            super().__init__(1, 1)
            given.update(kwargs)

    monkeypatch.setattr(candidates, 'ConfigurableMobileOne', Recorder)
    build_candidate(form, 's2', nn.Linear(1, 1).state_dict())
    assert given == dict(arch='s2', **arguments)


def test_without_timm_a_note_says_so(monkeypatch):
    monkeypatch.setattr(candidates, 'find_spec', lambda name: None)
    forms, note = choose_forms(BenchmarkOptions())
    assert forms == tuple(f for f in FORMS if f != 'timm')
    assert 'timm is not installed' in note


def test_without_timm_it_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(candidates, 'find_spec', lambda name: None)
    with pytest.raises(SpecError, match='timm, which is not installed'):
        choose_forms(BenchmarkOptions(forms=('auto', 'timm')))


def test_forms_are_taken_once_in_the_order_given():
    options = BenchmarkOptions(forms=('auto', 'branches', 'auto'))
    assert choose_forms(options) == (('auto', 'branches'), None)
    sweep = BenchmarkOptions(sweep=True)
    assert choose_forms(sweep) == (('branches', 'auto'), None)


def test_timm_is_used_up_to_its_last_map(monkeypatch, state):
    asked = {}

    class Net(nn.Conv2d):
        def forward_features(self, images):
            return self(images)

    def create_model(name, num_classes):
        asked[name] = num_classes
        return Net(3, 7, 1)

    timm = ModuleType('timm')
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, 'timm', timm)
    candidate = build_candidate('timm', 's3', state)
    assert asked == {'mobileone_s3': 0}
    assert candidate.last_map(torch.rand(1, 3, 2, 2)).shape == (1, 7, 2, 2)


def test_each_form_comes_before_its_compiled_one():
    forms, _ = choose_forms(BenchmarkOptions(forms=('folded', 'auto'), compile=True))
    assert forms == ('folded', 'folded compiled', 'auto', 'auto compiled')
    assert list(map(plain_form, forms)) == ['folded', 'folded', 'auto', 'auto']


@pytest.mark.parametrize(
    ('options', 'careful'),
    [
        (dict(), []),
        (dict(compile=True), ['mmpretrain compiled']),
        (dict(channels_last=True), ['mmpretrain']),
        (dict(compile=True, channels_last=True), ['mmpretrain', 'mmpretrain compiled']),
    ],
)
def test_what_would_end_the_process_is_avoided_and_said(options, careful):
    forms, note = choose_forms(BenchmarkOptions(forms=('mmpretrain', 'auto'), **options))
    assert set(careful) < set(forms)
    assert note.startswith(f'{", ".join(careful)}: the stem') if careful else note is None


@pytest.mark.usefixtures('tiny_s0')
def test_a_foreign_stem_in_channels_last_is_the_same_network(state):
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    found = []
    for channels_last in (False, True):
        candidate = build_candidate(
            'mmpretrain', 's0', state, dtype=torch.float64, channels_last=channels_last
        )
        branch = candidate.net.get_submodule('stage0.branch_scale.conv')
        assert branch.stride == ((1, 1) if channels_last else (2, 2))
        out = candidate.last_map(images)
        out.square().mean().backward()
        found.append([out, *(p.grad for p in candidate.net.parameters())])
    assert_close(*found, 1e-10)


@pytest.mark.usefixtures('tiny_s0')
@pytest.mark.parametrize('form', ['mmpretrain', 'auto', 'folded'])
def test_a_compiled_form_is_the_same_network(monkeypatch, form):
    seen = []

    def backend(graph, _):
        seen.append(graph)
        return graph

    make = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda net, **given: make(net, backend=backend, **given))
    state = reference_state('s0', seed=0)
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    maps, gradients = [], []
    for name in (form, f'{form} compiled'):
        candidate = build_candidate(name, 's0', state, dtype=torch.float64)
        assert candidate.form == name
        maps.append(candidate.last_map(images))
        maps[-1].square().mean().backward()
        gradients.append([p.grad for p in candidate.net.parameters()])
    torch._dynamo.reset()
    assert seen  # something was compiled
    # The same operators, one by one, but for the stem, which a compiled 'auto' never runs by
    # branches: float64 tells its methods from other networks.
    assert_close(*maps, 1e-9)
    assert_close(*gradients, 1e-9)


@pytest.mark.usefixtures('tiny_s0')
def test_weights_and_images_in_channels_last():
    candidates = build_candidates(['mmpretrain', 'folded'], 's0', 'cpu', channels_last=True)
    for candidate in candidates:
        for p in candidate.net.parameters():
            assert p.dim() < 4 or p.is_contiguous(memory_format=torch.channels_last)
    plain, other = (make_batch(candidates[0], 2, 32, 0, 'cpu', last) for last in (False, True))
    assert not plain.images.is_contiguous(memory_format=torch.channels_last)
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.images, other.images)
