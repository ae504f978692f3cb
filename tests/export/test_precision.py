"""What stays in fp32 is needed, is enough, and is told with its reason."""

import pytest
import torch
from export_kit import build
from precision_kit import Case, drifting_case, overflowing

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.errors import ParityError
from mmpretrain_mobileone_ext.export.precision import choose_precision
from mmpretrain_mobileone_ext.export.verify import tolerance_of
from mmpretrain_mobileone_ext.utils.parity import Tolerance

FP16 = tolerance_of('fp16')


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    case = Case(overflowing(), tmp_path_factory.mktemp('large'))
    return case, choose(case)


@pytest.fixture(scope='module')
def drifting(tmp_path_factory):
    case = drifting_case(tmp_path_factory.mktemp('drift'))
    return case, choose(case)


def choose(case, tolerance=FP16, **kwargs):
    return choose_precision(case.convert, case.evaluate, tolerance, case.inputs, **kwargs)


def accepted(case, keep):
    found = case.evaluate(case.convert(frozenset(keep)))
    return found.parity.failure(FP16) is None and not found.overflows


def half_operations(path):
    return {op.name: op for op in load_program(path).program.operations if 'fp16' in op.dtypes}


def test_fp16_of_large_activations_fails_and_names_the_operation(large):
    case, _ = large
    found = case.evaluate(case.convert(frozenset()))
    assert set(found.overflows) == {'stage1_0_cast_fp16'}
    with pytest.raises(ParityError, match=r'beyond fp16 in stage1_0_cast'):
        found.require()


def test_large_activations_keep_three_operations(large):
    case, choice = large
    assert [(op.name, op.type) for op in choice.kept] == [
        ('stage1_0', 'conv'),
        ('stage1_0_act', 'relu'),
        ('stage1_1', 'conv'),
    ]
    whys = [op.why for op in choice.kept]
    true = load_program(choice.path, record_range=True)
    true.predict_batch(case.inputs)
    for why, reach in zip(whys, (true.ranges['stage1_0'], true.ranges['stage1_0_act'])):
        assert why == f'reaches {reach:.1e}, fp16 ends at 65504'
    assert whys[2].startswith(f'reads up to {true.ranges["stage1_0_act"]:.1e}')
    assert choice.verification == case.evaluate(choice.path)
    choice.verification.require()
    assert choice.verification.overflows == {}


def test_kept_operations_are_in_fp32_and_no_others(large):
    _, choice = large
    halves = half_operations(choice.path)
    everything = load_program(choice.path).program.operations
    kept = {op.name for op in everything if op.name not in halves}
    # The mean is subtracted before anything is rounded.
    names = {op.name for op in choice.kept}
    assert kept - names <= {'image__biased__', 'classify_0'} | {
        op.name for op in everything if op.type == 'cast'
    }
    assert names <= kept


@pytest.mark.slow
@pytest.mark.parametrize('fixture', ['large', 'drifting'])
def test_without_any_one_the_file_is_not_accepted(fixture, request):
    case, choice = request.getfixturevalue(fixture)
    keep = case.keeps[choice.path]
    assert len(keep) == len(choice.kept)
    assert accepted(case, keep)
    for name in keep:
        assert not accepted(case, keep - {name}), name


def test_drift_keeps_both_ends_of_the_rounding(drifting):
    case, choice = drifting
    assert [op.type for op in choice.kept] == ['conv', 'conv']
    first, second = (op.name for op in choice.kept)
    program = load_program(choice.path).program
    by_name = {op.name: op for op in program.operations}
    assert by_name[second].inputs['x'].name in by_name[first].outputs
    assert by_name[first].inputs['bias'].max() > 4000
    for op in choice.kept:
        assert 'it alone moves the output by' in op.why
    fp16 = case.evaluate(case.convert(frozenset()))
    assert not fp16.overflows
    assert fp16.failure


def test_nothing_is_kept_where_fp16_is_enough(tmp_path):
    case = Case(build(), tmp_path)
    choice = choose(case)
    assert choice.kept == ()
    assert len(case.keeps) == 1
    assert all(
        op.name.endswith('_cast_fp16') or op.type == 'cast' or op.name.startswith('op_')
        for op in half_operations(choice.path).values()
    )


def test_fp32_that_fails_is_an_error(tmp_path):
    case = Case(build(), tmp_path)
    with pytest.raises(ParityError, match='all operations in fp32 relative'):
        choose(case, Tolerance('exact', 1e-9))


def test_an_overflow_that_the_output_forgives_is_not_shipped(tmp_path):
    model = overflowing()
    blocks = [m for m in model.modules() if hasattr(m, 'branch_reparam')]
    with torch.no_grad():  # -inf, of which the relu makes 0
        blocks[1].branch_reparam.bias[:4] = -60000.0
        blocks[1].branch_reparam.weight[:4] /= 2**3
        blocks[1].branch_reparam.weight[4:] /= 2**13
        blocks[1].branch_reparam.bias[4:] /= 2**13
        blocks[2].branch_reparam.weight[:, 4:] *= 2**13
    case = Case(model, tmp_path)
    plain = case.evaluate(case.convert(frozenset()))
    assert plain.failure is None
    assert plain.overflows
    choice = choose(case)
    assert choice.verification.overflows == {}
    assert 'conv' in [op.type for op in choice.kept]


@pytest.mark.slow
def test_images_beyond_the_inputs_decide(tmp_path):
    case = Case(overflowing(), tmp_path)
    # Black images reach less than fp16's end.
    gray = torch.full_like(case.inputs['image'], 110.0)
    case.inputs = {'image': gray}
    choice = choose(case)
    assert [op.type for op in choice.kept] == ['conv', 'relu', 'conv']
    assert accepted(case, case.keeps[choice.path])


def test_progress_counts_every_program(large, tmp_path):
    case, choice = large
    case = Case(overflowing(), tmp_path)
    counts = []
    assert choose(case, advance=counts.append).kept == choice.kept
    assert set(counts) == {1}
    assert len(counts) > len(case.keeps)
