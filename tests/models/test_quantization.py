"""Units that train as the rounded convolution that ships, against autograd in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, assert_same_state, randomize_norms
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmpretrain_mobileone_ext.errors import CheckpointError, SpecError
from mmpretrain_mobileone_ext.models import (
    ConfigurableMobileOne,
    DeployableClassifier,
    MobileOneBlock,
    switch_to_deploy,
)
from mmpretrain_mobileone_ext.models import quantization as q
from mmpretrain_mobileone_ext.models.deploy import compare_forms
from mmpretrain_mobileone_ext.models.spec import UnitSpec

RELU = {'type': 'ReLU'}
UNITS = dict(
    depthwise=UnitSpec('unit', 8, 8, 3, groups=8, num_conv_branches=3, act_cfg=RELU),
    strided=UnitSpec('unit', 8, 8, 3, stride=2, groups=8, num_conv_branches=2, act_cfg=None),
    pointwise=UnitSpec('unit', 8, 8, 1, num_conv_branches=4, act_cfg=RELU),
    wide=UnitSpec('unit', 80, 72, 1, num_conv_branches=2, act_cfg=None),
    one_conv=UnitSpec('unit', 8, 8, 1, num_conv_branches=1, act_cfg=RELU),
    grouped=UnitSpec('unit', 8, 16, 3, groups=2, num_conv_branches=2, act_cfg={'type': 'GELU'}),
    stem=UnitSpec('unit', 3, 8, 3, stride=2, num_conv_branches=1, act_cfg=RELU),
)
#: Bits of weights and of activations, and the size of a block.
FORMS = [(4, None, None), (4, None, 4), (8, None, None), (8, 8, None)]
NET = dict(arch=dict(num_blocks=[1, 2], width_factor=[0.25, 0.5], num_conv_branches=3))


def block_of(name, weights=8, activations=None, block_size=None, **options):
    torch.manual_seed(0)
    block = randomize_norms(MobileOneBlock(UNITS[name], **options)).double()
    assert block.add_quantizer(weights=weights, activations=activations, block_size=block_size)
    block.quantizer.phase = q.Quantizer.ON
    return block


def images(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, UNITS[name].in_channels, 9, 8)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Rounded(torch.autograd.Function):
    """To the nearest of ``low * scale ... high * scale``; the gradient passes within."""

    @staticmethod
    def forward(ctx, x, scale, low, high):
        integer = torch.round(x / scale)
        ctx.save_for_backward((integer >= low) & (integer <= high))
        return integer.clamp(low, high) * scale

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None, None


def by_autograd(block, x):
    """Output of a unit in training, every formula written out."""
    spec, own = block.spec, block.quantizer
    if own.activations:
        largest = x.detach().abs().max().float()
        x = Rounded.apply(x, (largest / 127).double(), -128, 127)
    geometry = dict(stride=spec.stride, padding=spec.padding, dilation=spec.dilation)
    patches = F.unfold(x, spec.kernel_size, **geometry).unflatten(1, (spec.groups, -1))
    kernel, betas = 0, 0
    for part in block.unit().branches:
        size = spec.kernel_size
        if part.kernel is None:
            w = torch.zeros(spec.out_channels, spec.group_width, size, size).double()
            for o in range(spec.out_channels):
                w[o, o % spec.group_width, size // 2, size // 2] = 1
        else:
            w = F.pad(part.kernel, [(size - part.kernel.shape[-1]) // 2] * 4)
        z = F.conv2d(x, w, groups=spec.groups, **geometry)
        var = z.var((0, 2, 3), unbiased=False)
        scale = part.norm.weight / (var + part.norm.eps).sqrt()
        kernel = kernel + w * scale.view(-1, 1, 1, 1)
        betas = betas + part.norm.bias
    levels = 2 ** (own.weights - 1) - 1
    rounded, size = torch.empty_like(kernel), own.block_size
    if not size or spec.group_width % size:
        size = spec.group_width
    for start in range(0, spec.group_width, size):
        part = kernel.detach()[:, start : start + size]
        step = part.abs().amax((1, 2, 3), keepdim=True) / levels
        rounded[:, start : start + size] = torch.round(part / step) * step
    kernel = kernel + (rounded - kernel).detach()
    mean = patches.mean((0, 3))
    rows = kernel.reshape(spec.groups, -1, mean.shape[1])
    bias = betas - torch.bmm(rows, mean.unsqueeze(2)).flatten()
    return block.act(F.conv2d(x, kernel, bias, groups=spec.groups, **geometry)), mean


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', UNITS)
def test_output_and_gradients_are_those_of_the_formulas(name, form):
    block = block_of(name, *form)
    wanted, x = copy.deepcopy(block), images(name)
    found = []
    for module, run in ((wanted, lambda x: by_autograd(wanted, x)[0]), (block, block)):
        own = x.clone().requires_grad_()
        out = run(own)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
        (out * weight).sum().backward()
        found.append([out.detach(), own.grad, *(p.grad for p in module.parameters())])
    assert_close(*found, 1e-9)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', UNITS)
def test_an_outputs_mean_is_the_sum_of_betas(name, form):
    block = block_of(name, *form)
    block.act = nn.Identity()
    mean = block(images(name)).mean((0, 2, 3))
    betas = sum(n.bias for n in block.unit().norms)
    assert_close([betas], [mean], 1e-12)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', UNITS)
def test_so_it_is_in_evaluation(name, form):
    block = block_of(name, *form)
    block.act = nn.Identity()
    for norm in block.unit().norms:
        norm.momentum = 1
    with torch.no_grad():
        block(images(name))
        mean = block.eval()(images(name)).mean((0, 2, 3))
    assert_close([sum(n.bias for n in block.unit().norms)], [mean], 1e-6)


@pytest.mark.parametrize('name', UNITS)
def test_sixteen_bits_are_evaluated_as_none(name):
    """Whatever the patches' mean is off by: it meets the error of rounding only."""
    block = block_of(name, 16)
    block(images(name))
    block.quantizer.patch_mean.mul_(1.1)
    plain, x = copy.deepcopy(block).eval(), images(name, 1)
    plain.quantizer = None
    with torch.no_grad():
        assert_close([plain(x)], [block.eval()(x)], 2**-13)
        block.quantizer.settings[0] = 4
        block.quantizer._read()
        with pytest.raises(AssertionError):
            assert_close([plain(x)], [block(x)], 2**-13)


@pytest.mark.parametrize('name', UNITS)
def test_means_and_ranges_follow_the_batches(name):
    block = block_of(name, activations=8)
    largest, means = [], []
    for seed in range(3):
        x = images(name, seed)
        largest.append(x.abs().max())
        if seed == 0:
            means.append(by_autograd(copy.deepcopy(block), x)[1])
        block(x)
        if seed == 0:
            assert_close([means[0]], [block.quantizer.patch_mean.double()], 1e-6)
    assert int(block.quantizer.batches) == 3
    assert block.quantizer.input_max.item() == pytest.approx(float(sum(largest)) / 3, rel=1e-6)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', UNITS)
def test_what_ships_is_what_was_scored(name, form):
    block = block_of(name, *form)
    x = images(name)
    with torch.no_grad():
        block(x)
        block.eval()
        scored = block(x)
        block.online_reparam = False
        by_branches = block(x)
        block.online_reparam = 'auto'
        folded = copy.deepcopy(block)
        folded.switch_to_deploy()
        shipped = folded(x)
    by_running_stats = block(x.requires_grad_()).detach()  # a gradient goes another way
    for other in (scored, by_branches, by_running_stats):
        assert_close([shipped], [other], 1e-12)
    weight = folded.branch_reparam.weight
    assert torch.equal(block.quantizer.weight_grid.round(weight.detach()), weight)


def test_a_fold_that_is_off_is_seen():
    """The branches are the check: they share nothing with the fold."""
    block = block_of('pointwise').eval()
    x = images('pointwise')
    folded = copy.deepcopy(block)
    folded.switch_to_deploy()
    assert compare_forms(block, folded, x).relative < 1e-12
    with torch.no_grad():
        folded.branch_reparam.weight[0, 0] *= 1.2
    assert compare_forms(block, folded, x).relative > 1e-6


def test_frozen_statistics_stay_and_train():
    block = block_of('depthwise', activations=8)
    block(images('depthwise'))
    block.quantizer.phase = q.Quantizer.FROZEN
    kept = {k: v.clone() for k, v in block.named_buffers()}
    block(images('depthwise', 1)).square().sum().backward()
    assert all(torch.equal(v, kept[k]) for k, v in block.named_buffers())
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize('name', UNITS)
def test_norms_in_eval_mode_leave_the_mean_to_be_followed(name):
    block, seen = block_of(name), block_of(name)
    for norm in block.unit().norms:
        norm.eval()
    for own in (block, seen):
        own(images(name))
    assert_close([seen.quantizer.patch_mean], [block.quantizer.patch_mean], 1e-6)


@pytest.mark.parametrize('name', UNITS)
def test_autocast_rounds_in_half_precision(name):
    block = block_of(name, activations=8).float()
    x = images(name).float()
    wanted = block(x).detach()
    with torch.autocast('cpu', torch.bfloat16):
        out = block(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())
    assert_close([wanted], [out], 2 * 2**-8)  # of x and of the kernel, a unit each


def test_off_changes_nothing():
    block = block_of('pointwise')
    block.quantizer.phase = q.Quantizer.OFF
    plain = copy.deepcopy(block)
    plain.quantizer = None
    x = images('pointwise')
    assert torch.equal(block(x), plain(x))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(4, None), (8, None), (4, 2), (4, 3), (4, 5)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**16),
    st.floats(1e-30, 1e30),
)
def test_rounded_weights_keep_their_integers(form, dtype, seed, size):
    generator, grid = torch.Generator().manual_seed(seed), q.WeightGrid(*form)
    weight = (torch.randn(4, 6, 3, 3, generator=generator, dtype=torch.float64) * size).to(dtype)
    weight[0] = 0
    found, scale = grid.integers(weight)
    rounded = grid.round(weight)
    count = {2: 3, 3: 2}.get(grid.block_size, 1)
    assert scale.shape == (4, count)
    largest = found.abs().view(4, count, -1).amax(2)
    assert not largest[0].any()
    assert (largest[1:] == 2 ** (grid.bits - 1) - 1).all()
    again, _ = grid.integers(rounded.float())
    assert torch.equal(found, again)
    scales = scale.repeat_interleave(6 // count, 1).view(4, 6, 1, 1)
    assert torch.equal(rounded, found.to(dtype) * scales)


@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('bits', [8, 16])
def test_inputs_are_rounded_and_their_gradient_passes_within(bits, signed):
    own = q.Quantizer(activations=bits, signed=signed)
    own.input_max.fill_(2.0)
    grid = own.grid()
    x = torch.linspace(-3, 3, 1001).requires_grad_()
    out = grid.round(x)
    out.sum().backward()
    levels = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    wanted = (x.detach() / grid.scale).round().clamp(*levels) * grid.scale
    assert torch.allclose(out.detach(), wanted, atol=1e-7)
    assert grid.scale.item() == pytest.approx(2 / levels[1])
    inside = (wanted > levels[0] * grid.scale) & (wanted < levels[1] * grid.scale)
    assert x.grad[inside].all()
    assert not x.grad[(x < levels[0] * grid.scale - grid.scale) | (x > 2 + grid.scale)].any()
    # The operator of torch that stands for it in a graph.
    zero = torch.zeros((), dtype=torch.int32)
    graph = torch.fake_quantize_per_tensor_affine(x.detach(), grid.scale, zero, *levels)
    assert (graph - out.detach()).abs().max() <= grid.scale * 1.001  # at ties
    assert (graph != out.detach()).float().mean() < 0.01


def test_percentile_leaves_outliers_out():
    own = q.Quantizer(activations=8, observer='percentile')
    x = torch.rand(1, 4, 200, 200)
    x[0, 0, 0, 0] = 1000
    own.observe(x)
    assert 0.9 < own.input_max.item() <= 1


@pytest.mark.parametrize(
    'options',
    [
        {'weights': 3},
        {'weights': 8.0},
        {'activations': 4},
        {'activations': True},
        {'observer': ''},
        {'weights': 8, 'block_size': 32},
        {'weights': 4, 'block_size': 0},
        {'weights': 4, 'block_size': 32.0},
    ],
)
def test_other_options_are_refused(options):
    with pytest.raises(SpecError, match='allowed'):
        q.Quantizer(**options)


def classifier(**backbone):
    torch.manual_seed(0)
    model = DeployableClassifier(
        backbone=dict(type='ConfigurableMobileOne', **NET, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=64),
    )
    return randomize_norms(model)


def quantized_classifier(sensitive=4, **options):
    model = classifier()
    given, left = q.add_quantizers(model, sensitive=sensitive, **options)
    assert not left
    assert given[0] == 'backbone.stage0'
    assert given[-1] == 'head.fc'
    for own in q.quantizers(model):
        own.phase = own.ON
    model.train()
    model(torch.rand(4, 3, 32, 32))
    return model.eval()


def test_keys_are_those_of_the_plain_network_and_the_quantizers():
    model = quantized_classifier()
    keys = {k for k in model.state_dict() if '.quantizer.' not in k}
    assert keys == set(classifier().state_dict())


@pytest.mark.parametrize('deploy', [False, True])
def test_sensitive_layers_keep_eight_bits(deploy):
    arch = dict(num_blocks=[1, 2], width_factor=[0.5, 1.0], num_conv_branches=2)
    model = DeployableClassifier(
        backbone=dict(type='ConfigurableMobileOne', arch=arch, deploy=deploy),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=40, in_channels=128),
    )
    names, _ = q.add_quantizers(model, weights=4)
    found = {n: (own.weights, own.block_size) for n, own in zip(names, q.quantizers(model))}
    few = {name for name, form in found.items() if form == (4, 32)}
    # 1x1 convolutions of 32 x 128 and 128 x 128; the classifier has 5120 weights, and is the last.
    assert few == {'backbone.stage2.1', 'backbone.stage2.3'}
    assert {found[name] for name in found.keys() - few} == {(8, None)}
    for options in (dict(weights=8), dict(weights=4, sensitive=4, block_size=None)):
        plain = classifier()
        q.add_quantizers(plain, **options)
        wanted = {(options['weights'], None)}
        assert {(own.weights, own.block_size) for own in q.quantizers(plain)} == wanted


def test_only_images_can_be_negative():
    model = quantized_classifier(activations=8)
    assert next(q.quantizers(model)).signed
    assert not any([own.signed for own in q.quantizers(model)][1:])
    gelu = ConfigurableMobileOne(**NET, act_cfg=dict(type='GELU'))
    q.add_quantizers(gelu, activations=8)
    assert all(own.signed for own in q.quantizers(gelu))


@pytest.mark.parametrize(('activations', 'block_size'), [(None, None), (8, 16)])
def test_a_checkpoint_says_what_is_quantized(activations, block_size):
    model = quantized_classifier(weights=4, activations=activations, block_size=block_size)
    assert {own.block_size for own in q.quantizers(model)} == {block_size}
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x)
        plain = classifier().eval()
        assert not torch.allclose(plain(x), wanted)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(plain(x), wanted)
        folded = classifier(deploy=True).eval()
        folded.load_state_dict(model.state_dict())
        assert_close([wanted], [folded(x)], 1e-5)
        again = classifier(deploy=True).eval()
        again.load_state_dict(switch_to_deploy(model).state_dict())
        assert torch.equal(again(x), folded(x))


def test_a_float_checkpoint_may_start_a_quantized_run():
    model, float_model = quantized_classifier(), classifier()
    ranges = [own.state_dict() for own in q.quantizers(model)]
    model.load_state_dict(float_model.state_dict(), strict=False)
    weight = float_model.head.fc.weight
    assert torch.equal(model.head.fc.weight, weight)
    for before, own in zip(ranges, q.quantizers(model)):
        assert_same_state(before, own.state_dict())


def test_other_settings_than_the_checkpoints_are_refused():
    state = quantized_classifier(weights=4).state_dict()
    with pytest.raises(CheckpointError, match=r"stage0 was trained with \{'weights': 4.*asked"):
        quantized_classifier(weights=8).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"'block_size': 32.*asked for.*'block_size': None"):
        quantized_classifier(weights=4, block_size=None).load_state_dict(state)


@pytest.mark.parametrize(
    'value',
    [
        torch.tensor([7, 0, 1]),
        torch.tensor([4, 0, 1, 0]),
        torch.tensor([8, 0, 1, 32]),
        torch.tensor([4, 0, 1, 32, 32]),
        torch.tensor(1),
        torch.zeros(1 << 10),
    ],
)
def test_settings_that_cannot_be_are_refused(value):
    state = quantized_classifier().state_dict()
    state['head.fc.quantizer.settings'] = value
    with pytest.raises(CheckpointError, match='settings of a quantizer'):
        classifier().load_state_dict(state)


def test_a_unit_with_a_hook_is_left():
    net = ConfigurableMobileOne(**NET)
    net.stage1[0].branch_conv_list[0].conv.register_forward_hook(lambda *_: None)
    assert q.add_quantizers(net)[1] == ['stage1.0']


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.library, 'register_fake'), reason='torch < 2.4')
def test_a_compiled_step_is_an_eager_one():
    own = randomize_norms(ConfigurableMobileOne(**NET)).train()
    q.add_quantizers(own, weights=8, activations=8)
    for quantizer in q.quantizers(own):
        quantizer.phase = quantizer.ON
    eager = copy.deepcopy(own)
    compiled = torch.compile(own, fullgraph=True, backend='aot_eager')
    x = torch.rand(4, 3, 32, 32)
    for _ in range(2):
        for run, net in ((eager, eager), (compiled, own)):
            net.zero_grad()
            run(x)[-1].square().mean().backward()
    assert_close(*([p.grad for p in n.parameters()] for n in (eager, own)), 1e-5)
    assert_close(*(list(n.buffers()) for n in (eager, own)), 1e-5)


def test_forms_are_compared_without_steps_of_activations():
    model = quantized_classifier(activations=8)
    folded = switch_to_deploy(model, inplace=False)
    x = torch.rand(8, 3, 32, 32)
    assert compare_forms(model, folded, x).relative < 1e-5
    assert all(own.rounds_input for own in (*q.quantizers(model), *q.quantizers(folded)))
    with torch.no_grad():
        folded.backbone.stage1[0].branch_reparam.weight *= 1.01
    assert compare_forms(model, folded, x).relative > 1e-5


def test_a_percentile_sees_every_column():
    own = q.Quantizer(activations=8, observer='percentile')
    x = torch.rand(128, 64, 56, 56)
    x[..., 0] = 0
    own.observe(x)
    assert own.input_max.item() > 0.99


def test_a_batch_with_infinities_moves_no_range():
    own = q.Quantizer(activations=8)
    own.observe(torch.ones(4))
    own.observe(torch.tensor([float('inf'), float('nan'), 1.0]))
    assert own.input_max.item() == 1
    own.observe(torch.ones(4) * 4)
    assert own.input_max.item() == pytest.approx(2)


def test_a_second_linear_layer_reads_negative_numbers():
    model = classifier()
    model.head.fc = nn.Sequential(nn.Linear(64, 8), nn.Hardswish(), nn.Linear(8, 4))
    q.add_quantizers(model, activations=8)
    first, _, second = model.head.fc
    assert not first.quantizer.signed
    assert second.quantizer.signed


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('input_max', None, 'lacks input_max'),
        ('phase_number', torch.tensor(7), 'phase 7|phase tensor'),
        ('phase_number', torch.zeros(3), 'phase'),
        ('input_max', torch.tensor(float('nan')), 'not finite'),
        ('patch_mean', torch.full((1, 27), float('inf')), 'not finite'),
    ],
)
@pytest.mark.parametrize('deploy', [False, True])
def test_unsound_quantizers_are_refused(key, value, words, deploy):
    state = quantized_classifier(activations=8).state_dict()
    name = f'backbone.stage0.quantizer.{key}'
    if value is None:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(CheckpointError, match=words):
        classifier(deploy=deploy).load_state_dict(state)


def test_norms_without_statistics_leave_their_unit_as_it_is():
    net = ConfigurableMobileOne(**NET, norm_cfg=dict(type='BN', track_running_stats=False))
    given, left = q.add_quantizers(net)
    assert not given
    assert len(left) == 7


@pytest.mark.parametrize('name', ['pointwise', 'wide'])
def test_two_forwards_before_one_backward(name):
    grads = []
    for with_cp in (False, True):
        block = block_of(name, activations=8, with_cp=with_cp)
        a, b = (images(name, seed).requires_grad_() for seed in range(2))
        (block(a).sin().sum() + block(b * 3).sin().sum()).backward()
        grads.append([a.grad, b.grad, *(p.grad for p in block.parameters())])
    assert_close(*grads, 1e-12)


def test_a_mean_may_move_before_backward():
    block = block_of('wide').float()
    for norm in block.unit().norms:
        norm.eval()
    x = images('wide').float().requires_grad_()
    (block(x).sum() + block(x + 1).sum()).backward()
    twice = x.grad.clone()
    x.grad = None
    block(x).sum().backward()
    assert_close([twice], [2 * x.grad], 1e-5)  # where norms are fixed, a unit is linear
