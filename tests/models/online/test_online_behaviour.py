"""What has to hold around the methods: modes, wrappers, dtypes, fallbacks."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_close, generator, randomize_norms
from mmengine.utils import digit_version
from torch import nn

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models import MobileOneBlock, online_forms, print_online_forms
from mmpretrain_mobileone_ext.models.online import kernels as native
from mmpretrain_mobileone_ext.models.online import planned_method
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.spec import UnitSpec

DEPTHWISE = UnitSpec('dw', 16, 16, 3, groups=16, num_conv_branches=3, act_cfg=dict(type='ReLU'))


def images(channels=16, size=8, dtype=torch.float64):
    return torch.randn(4, channels, size, size, generator=generator(), dtype=dtype)


def pair(spec=DEPTHWISE, dtype=torch.float64, **kwargs):
    """The same block twice: online and by branches."""
    block = MobileOneBlock(spec, online_reparam=True, **kwargs).to(dtype)
    randomize_norms(block)
    wanted = copy.deepcopy(block)
    wanted.online_reparam = False
    return block, wanted


def grads_of(block, x, run=None):
    own = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = (block if run is None else run)(own)
    (out.float() if out.dtype.itemsize == 2 else out).sin().sum().backward()
    return [out.detach(), own.grad, *(p.grad for p in block.parameters())]


def assert_all_close(found, wanted, tolerance=1e-9):
    for a, b in zip(found, wanted):
        assert_close(b, a, tolerance)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_layouts_and_checkpointing(with_cp, layout):
    block, wanted = pair(with_cp=with_cp)
    x = images().contiguous(memory_format=layout)
    assert_all_close(grads_of(block, x), grads_of(wanted, x))
    assert_all_close([b.double() for b in block.buffers()], [b.double() for b in wanted.buffers()])


def test_frozen_norms_train_by_running_statistics():
    block, wanted = pair()
    for module in [*block.modules(), *wanted.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert_all_close(grads_of(block, images()), grads_of(wanted, images()))
    assert not block.branch_norm.num_batches_tracked


def test_eval_without_gradients():
    block, wanted = pair()
    with torch.no_grad():
        assert_close(wanted.eval()(images()), block.eval()(images()), 1e-12)


def test_used_twice_in_one_graph():
    block, wanted = pair()
    twice = [grads_of(b, images(), lambda x, b=b: b(b(x))) for b in (block, wanted)]
    assert_all_close(*twice)


def test_deepcopy_and_pickle_after_training():
    block, _ = pair()
    grads_of(block, images())
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(block), again):
        other.zero_grad()
        block.zero_grad()
        for module in (block, other):
            module.load_state_dict(again.state_dict())
        assert_all_close(grads_of(other, images()), grads_of(copy.deepcopy(block), images()))


def test_torch_compile_of_a_unit():
    block, wanted = pair()
    compiled = torch.compile(block, backend='eager')
    assert_all_close(grads_of(block, images(), compiled), grads_of(wanted, images()))


@pytest.mark.parametrize('preference', [True, 'memory'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(dtype, preference):
    old = digit_version(torch.__version__) < digit_version('2.4')
    if dtype == torch.float16 and old:
        pytest.skip('autocast on a CPU takes bfloat16 only')
    block, wanted = pair(dtype=torch.float32)
    block.online_reparam = preference
    x = images(dtype=torch.float32)
    reference = grads_of(copy.deepcopy(wanted), x)

    def errors(module):
        def run(own):
            with torch.autocast('cpu', dtype=dtype):
                return module(own)

        found = grads_of(module, x, run)
        return [((f.float() - r).norm() / r.norm()).item() for f, r in zip(found, reference)]

    rounding = 2 * torch.finfo(dtype).eps
    for own, other in zip(errors(block), errors(wanted)):
        assert own < 2 * other + 8 * rounding
    assert_close(wanted.branch_norm.running_mean, block.branch_norm.running_mean, rounding)


@pytest.mark.parametrize('preference', [False, 'memory'])
def test_channels_last_images_do_not_corrupt_the_heap(preference):
    stem = UnitSpec('stem', 3, 48, 3, stride=2)
    block, wanted = pair(stem, dtype=torch.float32)
    block.online_reparam = preference
    x = torch.randn(8, 3, 64, 64, generator=generator())
    for _ in range(5):
        block.zero_grad()
        found = grads_of(block, x.contiguous(memory_format=torch.channels_last))
    assert_all_close(found, grads_of(wanted, x), 1e-4)


def test_float32_moments_keep_digits():
    block, wanted = pair(dtype=torch.float32)
    exact = copy.deepcopy(wanted).double()
    x = images(size=32, dtype=torch.float32)
    reference = grads_of(exact, x.double())
    errors = []
    for module in (block, wanted):
        found = grads_of(module, x)
        errors.append(
            max(
                ((f.double() - r).norm() / reference[i].norm()).item()
                for i, (f, r) in enumerate(zip(found[:2], reference[:2]))
            )
        )
    assert errors[0] < 2 * errors[1]


def test_cancellation_needs_no_branches():
    block, wanted = pair(dtype=torch.float32)
    x = images(dtype=torch.float32) * 1e-3 + 100
    exact = copy.deepcopy(wanted).double()(x.double())
    out = sum_by('moments', block.unit(relu=True), x)
    assert (out - exact).norm() <= 3 * (wanted(x) - exact).norm()


def test_one_value_per_channel_raises_as_batch_norm_does():
    block, _ = pair()
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        block(images(size=1)[:1])


def test_hooks_and_foreign_norms_run_branches():
    block, wanted = pair()
    seen = []
    block.branch_scale.norm.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(block(images()), wanted(images()))
    assert seen == [1]
    group = MobileOneBlock(DEPTHWISE, norm_cfg=dict(type='GN', num_groups=4)).double()
    assert group(images()).shape == images().shape


@pytest.mark.parametrize('value', ['fast', 1, None, 0])
def test_unknown_preference(value):
    with pytest.raises(SpecError, match='online_reparam='):
        ConfigurableMobileOne('s0', online_reparam=value)


def test_table_of_forms_changes_nothing():
    net = ConfigurableMobileOne('s0').train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    rows = online_forms(net, torch.rand(1, 3, 64, 64))
    assert len(rows) == 43
    assert {r['form'] for r in rows} >= {'branches'}
    assert all(r['why'] for r in rows)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    rows = online_forms(net.eval(), torch.rand(1, 3, 64, 64))
    assert {r['form'] for r in rows} == {'running'}


@pytest.mark.parametrize(
    'environment', [dict(MOBILEONE_EXT_NO_COMPILER='1'), dict(CXX='no-such-compiler')]
)
def test_without_a_compiler(monkeypatch, tmp_path, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    native.compiled_kernels.cache_clear()
    try:
        assert native.compiled_kernels() is None
        block, wanted = pair()
        assert_all_close(grads_of(block, images()), grads_of(wanted, images()))
    finally:
        native.compiled_kernels.cache_clear()


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_joined_batch():
    script = Path(__file__).parents[2] / 'kits/online_ranks.py'
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            str(script),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('compared') == 2


@pytest.mark.skipif(native.compiled_kernels() is None, reason='no C++ compiler')
def test_a_new_shape_is_a_new_question():
    block, _ = pair(dtype=torch.float32)
    block.online_reparam, unit = 'auto', block.unit
    looks = []
    block.unit = lambda relu=False: looks.append(relu) or unit(relu)
    small, large = torch.rand(1, 16, 4, 4), torch.rand(8, 16, 64, 64)
    for x, expected in ((small, 0), (large, 1), (large, 2), (small, 2)):
        block(x)
        assert len(looks) == expected


@pytest.mark.parametrize('train', [True, False])
def test_shapes_on_meta(train):
    with torch.device('meta'):
        net = ConfigurableMobileOne('s0').train(train)
        out = net(torch.empty(2, 3, 64, 64))[-1]
    assert out.shape == (2, 1024, 2, 2)


def test_transforms_of_torch_func_in_eval():
    block, wanted = (b.eval() for b in pair())
    x = torch.stack([images(), images() + 1])
    with torch.no_grad():
        assert_close(torch.stack([wanted(i) for i in x]), torch.vmap(block)(x), 1e-12)
    params = dict(block.named_parameters())

    def loss(params, x):
        return torch.func.functional_call(block, params, (x,)).sin().sum()

    found = torch.func.grad(loss, (0, 1))(params, x[0])
    wanted(own := x[0].clone().requires_grad_()).sin().sum().backward()
    assert_close(own.grad, found[1], 1e-10)
    for name, param in wanted.named_parameters():
        assert_close(param.grad, found[0][name], 1e-9)


def test_the_rule_of_other_devices_can_be_asked_here(capsys):
    net = ConfigurableMobileOne('s1').train()
    rows = online_forms(net, torch.rand(2, 3, 64, 64), on='cuda')
    assert {r['form'] for r in rows} == {'moments'}
    print_online_forms(net, torch.rand(2, 3, 64, 64), on='cuda')
    assert 'not measured' in capsys.readouterr().out
    with pytest.raises(SpecError, match="on='tpu'; there are rules for 'cpu'"):
        online_forms(net, torch.rand(2, 3, 64, 64), on='tpu')


@pytest.mark.skipif(not native.has_kernels_for(torch.empty(1)), reason='no compiled kernels')
@pytest.mark.parametrize(
    ('channels', 'side', 'auto'),
    [(64, 8, 'branches'), (192, 28, 'recompute'), (256, 28, 'fused'), (512, 14, 'fused')],
)
def test_a_large_product_is_kept_rather_than_computed_again(channels, side, auto):
    spec = UnitSpec('pw', channels, channels, 1, num_conv_branches=1, act_cfg=dict(type='ReLU'))
    unit, x = MobileOneBlock(spec).train().unit(True), torch.empty(32, channels, side, side)
    assert planned_method(unit, x, 'auto', True).method == auto
    assert planned_method(unit, x, 'memory', True).method == 'recompute'
