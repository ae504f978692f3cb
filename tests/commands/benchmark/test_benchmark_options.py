"""Options: defaults of both kinds of run, and every refusal."""

from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.commands.benchmark.training.options import BenchmarkOptions
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models.spec import PRESETS


def test_defaults():
    options = BenchmarkOptions()
    assert list(options.cases()) == [('s0', 32, 224)]
    assert options.check


def test_a_sweep_is_the_whole_grid_small_shapes_first():
    options = BenchmarkOptions(sweep=True)
    cases = list(options.cases())
    assert len(set(cases)) == len(cases) == 5 * 3 * 3
    assert list(dict.fromkeys(c[0] for c in cases)) == list(PRESETS)
    pixels = [batch * size**2 for arch, batch, size in cases if arch == 's2']
    assert pixels == sorted(pixels)
    assert not options.check


def test_what_is_given_wins_in_a_sweep():
    options = BenchmarkOptions(sweep=True, arch=('s1',), batch=(4, 2), size=(64,), check=True)
    assert list(options.cases()) == [('s1', 2, 64), ('s1', 4, 64)]
    assert options.check


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(arch=('s5',)), "arch 's5' is not one of ['s0', 's1'"),
        (dict(forms=('fast',)), "form 'fast' is not one of ['mmpretrain'"),
        (dict(forms=()), 'forms is empty'),
        (dict(arch=()), 'arch is empty'),
        (dict(device='tpu'), "device 'tpu' is not one of"),
        (dict(amp='int8'), "amp 'int8' is not one of"),
        (dict(batch=(8, 0)), 'batch=0; at least 1'),
        (dict(size=(-1,)), 'size=-1; at least 1'),
        (dict(threads=0), 'threads=0; at least 1'),
        (dict(steps=0), 'steps=0; at least 1'),
        (dict(seeds=0), 'seeds=0; at least 1'),
        (dict(warmup=-1), 'warmup=-1; at least 0'),
        (dict(batch=(1,), size=(32,)), 'one value a channel'),
        (dict(check_batch=1, check_size=32), 'check_batch=1 and check_size=32'),
        (dict(check_size=0), 'check_size=0; at least 1'),
        (dict(plot=Path('chart.txt')), "'.txt' is not one of ['.png'"),
        (dict(sweep=True, forms=('auto',)), 'compares two different forms'),
        (dict(sweep=True, forms=('auto', 'auto')), 'compares two different'),
        (dict(sweep=True, compile=True), 'leave out compile or sweep'),
        (dict(tf32=True), "tf32 is a setting of CUDA, and the device is 'cpu'"),
        (dict(tf32=False), "tf32 is a setting of CUDA, and the device is 'cpu'"),
    ],
)
def test_refusals_name_the_value(given, text):
    with pytest.raises(SpecError) as caught:
        BenchmarkOptions(**given)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ('batch', 'size', 'steps'),
    [(1, 64, 200), (1, 224, 105), (8, 128, 40), (8, 224, 15), (32, 224, 5)],
)
def test_small_inputs_of_a_sweep_take_more_steps(batch, size, steps):
    assert BenchmarkOptions(sweep=True).steps_for(batch, size) == steps
    assert BenchmarkOptions().steps_for(batch, size) == 5


@pytest.mark.parametrize(
    ('given', 'dtype'),
    [('bf16', 'bfloat16'), ('bfloat16', 'bfloat16'), ('fp16', 'float16'), ('float16', 'float16')],
)
def test_types_have_short_names(given, dtype):
    assert BenchmarkOptions(amp=given).amp == dtype


def test_tf32_of_a_gpu():
    assert BenchmarkOptions(device='cuda').tf32 is None
    assert BenchmarkOptions(device='cuda', tf32=False).tf32 is False
