"""Architectures as data: presets, overrides, and what cannot be built."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmpretrain.models.backbones import MobileOne
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.models.spec import (
    PRESETS,
    UnitSpec,
    build_network_spec,
    resolve_arch,
    resolve_out_indices,
)

TINY = dict(num_blocks=(1, 2), width_factor=1.0)


def units(*args, **kwargs):
    spec = build_network_spec(*args, **kwargs)
    return [spec.stem, *(u for stage in spec.stages for u in stage)]


def stage_values(field, *args, **kwargs):
    """The field's value of each stage, which must be one for all units."""
    found = []
    for stage in build_network_spec(*args, **kwargs).stages:
        first, *rest = [getattr(u, field) for u in stage]
        assert all(value == first for value in rest)
        found.append(first)
    return found


@pytest.mark.parametrize('name', PRESETS)
def test_presets_are_those_of_mmpretrain(name):
    theirs = {k: tuple(v) for k, v in MobileOne.arch_zoo[name].items()}
    assert PRESETS[name] == theirs


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_network_spec('s0').stem.stride = 1


def test_names_are_paths_of_the_modules():
    names = [u.name for u in units(TINY)]
    assert names == [
        'stage0',
        'stage1.0',
        'stage1.1',
        'stage2.0',
        'stage2.1',
        'stage2.2',
        'stage2.3',
    ]


def test_a_preset_returned_is_a_copy():
    resolve_arch('s0')['num_blocks'] = None
    assert PRESETS['s0']['num_blocks'] == (2, 8, 10, 1)


@given(st.integers(1, 6), st.data())
def test_a_scalar_is_the_same_value_for_each_stage(stages, data):
    arch = dict(num_blocks=[1] * stages, width_factor=[1.0] * stages)
    scalars = dict(
        num_conv_branches=data.draw(st.integers(1, 3)),
        width_factor=data.draw(st.sampled_from((0.5, 1, 2.25))),
        num_blocks=data.draw(st.integers(1, 3)),
        base_channels=data.draw(st.integers(8, 16)),
        strides=data.draw(st.integers(1, 3)),
        dilations=data.draw(st.integers(1, 2)),
        act_cfg=data.draw(st.sampled_from((None, dict(type='ReLU6')))),
    )
    kind = data.draw(st.sampled_from((list, tuple)))
    spread = {k: kind([v] * stages) for k, v in scalars.items()}
    # The stem is capped by the first base, in either way of writing it.
    assert build_network_spec(arch, **scalars) == build_network_spec(arch, **spread)


@given(st.integers(1, 6), st.data())
def test_each_stage_gets_its_own_value(stages, data):
    def some(values):
        return data.draw(st.tuples(*[values] * stages))

    blocks, convs = some(st.integers(1, 3)), some(st.integers(1, 4))
    strides, acts = (
        some(st.integers(1, 3)),
        some(st.sampled_from((None, dict(type='ReLU'), dict(type='GELU')))),
    )
    spec = build_network_spec(
        dict(num_blocks=blocks, width_factor=1.0, num_conv_branches=convs),
        strides=strides,
        act_cfg=list(acts),
        base_channels=8,
    )
    for i, stage in enumerate(spec.stages):
        assert len(stage) == 2 * blocks[i]
        assert [u.stride for u in stage] == [strides[i]] + [1] * (len(stage) - 1)
        assert {u.num_conv_branches for u in stage} == {convs[i]}
        assert all(u.act_cfg == acts[i] for u in stage)
    assert spec.stem.act_cfg == acts[0]


@given(st.lists(st.sampled_from((0.25, 0.75, 1, 1.5, 3.5)), min_size=1, max_size=6))
def test_widths_double_and_chain(widths):
    found = units(dict(num_blocks=[1] * len(widths), width_factor=widths))
    for before, after in zip(found, found[1:]):
        assert after.in_channels == before.out_channels
    assert [u.out_channels for u in found[2::2]] == [
        int(64 * 2**i * w) for i, w in enumerate(widths)
    ]
    assert found[0].out_channels == min(64, int(64 * widths[0]))


def test_an_argument_wins_over_arch():
    arch = dict(
        TINY, num_conv_branches=3, strides=3, stem_stride=1, stem_channels=8, base_channels=16
    )
    kept = build_network_spec(arch)
    assert kept.stem.stride == 1
    assert kept.stem.out_channels == 8
    assert kept.stages[1][-1].out_channels == 16
    won = build_network_spec(
        arch, num_conv_branches=1, strides=1, stem_stride=3, stem_channels=4, base_channels=32
    )
    assert won.stem.stride == 3
    assert won.stem.out_channels == 4
    assert won.stages[1][-1].out_channels == 32
    assert {u.num_conv_branches for s in won.stages for u in s} == {1}
    assert {u.stride for s in won.stages for u in s} == {1}


def test_the_stem_has_branches_of_its_own():
    spec = build_network_spec('s0', stem_num_conv_branches=3)
    assert spec.stem.num_convs == 3
    assert {u.num_convs for s in spec.stages for u in s} == {4}


def test_configs_of_mmengine_are_accepted():
    cfg = ConfigDict(arch=TINY, se_cfg=dict(placement='all'), act_cfg=dict(type='ReLU'))
    assert build_network_spec(**cfg) == build_network_spec(
        TINY, se_cfg=dict(placement='all'), act_cfg=dict(type='ReLU')
    )


# --- SE placement ------------------------------------------------------------
def se_map(*args, **kwargs):
    """Per stage, one letter a unit: x where it has SE."""
    return [
        ''.join('.x'[u.se_cfg is not None] for u in stage)
        for stage in build_network_spec(*args, **kwargs).stages
    ]


def test_s4_has_se_where_the_paper_puts_it():
    assert se_map('s4') == ['.' * 4, '.' * 16, '.' * 10 + 'x' * 10, 'xx']


@pytest.mark.parametrize(
    ('arch', 'se_cfg', 'wanted'),
    [
        ('s4', None, ['....', '.' * 16, '.' * 20, '..']),
        (TINY, 'arch', ['..', '....']),
        (TINY, dict(ratio=8), ['xx', 'xxxx']),
        (TINY, dict(placement='none'), ['..', '....']),
        (TINY, dict(placement='all'), ['xx', 'xxxx']),
        (TINY, dict(placement=1), ['xx', '..xx']),
        (TINY, dict(placement=(0, 'all')), ['..', 'xxxx']),
        (TINY, dict(placement=['all', None]), ['xx', '....']),
        (TINY, dict(units='depthwise'), ['x.', 'x.x.']),
        (TINY, dict(units='pointwise', placement=(0, 1)), ['..', '...x']),
        (dict(TINY, num_se_blocks=(0, 1)), 'arch', ['..', '..xx']),
        (dict(TINY, num_se_blocks=(0, 1)), dict(ratio=8), ['..', '..xx']),
        (dict(TINY, num_se_blocks=(0, 1)), dict(placement='all'), ['xx', 'xxxx']),
    ],
)
def test_se_goes_where_it_is_placed(arch, se_cfg, wanted):
    assert se_map(arch, se_cfg=se_cfg) == wanted


def test_se_of_a_shortened_preset_fills_the_stage():
    assert se_map('s4', num_blocks=(1, 1, 2, 1)) == ['..', '..', 'xxxx', 'xx']


def test_se_arguments_reach_the_layer():
    found = units(TINY, se_cfg=dict(squeeze_channels=4, placement='all'))
    assert found[0].se_cfg is None
    assert all(u.se_cfg == dict(ratio=16, squeeze_channels=4) for u in found[1:])


# --- dilation ----------------------------------------------------------------
@pytest.mark.parametrize(
    ('stride', 'strides', 'dilations'),
    [
        (32, [2, 2, 2, 2], [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (16, [2, 2, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 2)]),
        (8, [2, 2, 1, 1], [(1, 1), (1, 1), (1, 2), (2, 4)]),
        (4, [2, 1, 1, 1], [(1, 1), (1, 2), (2, 4), (4, 8)]),
        (2, [1, 1, 1, 1], [(1, 2), (2, 4), (4, 8), (8, 16)]),
    ],
)
def test_output_stride_trades_strides_for_dilation(stride, strides, dilations):
    spec = build_network_spec('s0', num_blocks=2, output_stride=stride)
    depthwise = [stage[::2] for stage in spec.stages]
    assert [s[0].stride for s in depthwise] == strides
    assert [tuple(u.dilation for u in s) for s in depthwise] == dilations


def test_dilations_are_those_of_depthwise_units():
    spec = build_network_spec(TINY, dilations=(1, 3))
    assert [u.dilation for u in spec.stages[1]] == [3, 1, 3, 1]
    assert [u.padding for u in spec.stages[1]] == [3, 0, 3, 0]


# --- what cannot be built ----------------------------------------------------
NAN = float('nan')
BAD = [
    (dict(arch='s9'), 's9'),
    (dict(arch=7), 'int'),
    (dict(arch=None), 'NoneType'),
    (dict(arch=dict(num_blocks=(1, 1))), 'width_factor'),
    (dict(arch=dict(TINY, depth=3)), 'depth'),
    (dict(arch={**TINY, 1: 2, 'depth': 3}), 'depth'),
    (dict(num_blocks=()), '()'),
    (dict(num_blocks=(1, 0)), '0'),
    (dict(num_blocks=(1, True)), 'True'),
    (dict(num_blocks=(1, 2.5)), '2.5'),
    (dict(num_blocks='22'), '22'),
    (dict(num_blocks=(1, 1, 1), width_factor=(1.0, 2.0)), '3 stages'),
    (dict(width_factor=(1.0, -1.0)), '-1.0'),
    (dict(width_factor=(1.0, 0.001)), '0.001'),
    (dict(width_factor='1.0'), '1.0'),
    (dict(width_factor=NAN), 'nan'),
    (dict(width_factor=float('inf')), 'inf'),
    (dict(width_factor=[]), '[]'),
    (dict(num_conv_branches=-1), '-1'),
    (dict(num_conv_branches=1.5), '1.5'),
    (dict(num_conv_branches=(1, 2, 3)), '(1, 2, 3)'),
    (dict(num_conv_branches=0, branches=('conv', 'skip')), 'no branch'),
    (dict(stem_num_conv_branches='1'), "'1'"),
    (dict(base_channels=0), '0'),
    (dict(base_channels=(8, '8')), "'8'"),
    (dict(stem_channels=0), '0'),
    (dict(stem_stride=0), '0'),
    (dict(strides=(2, -2)), '-2'),
    (dict(strides=[2]), '[2]'),
    (dict(act_cfg='ReLU'), 'ReLU'),
    (dict(act_cfg=dict(inplace=True)), 'inplace'),
    (dict(act_cfg=(None, dict())), '{}'),
    (dict(se_cfg='all'), 'all'),
    (dict(se_cfg=16), '16'),
    (dict(se_cfg=[dict(ratio=4)]), 'ratio'),
    (dict(se_cfg=dict(ratio=0)), '0'),
    (dict(se_cfg=dict(ratio=2.5)), '2.5'),
    (dict(se_cfg=dict(squeeze_channels=0)), '0'),
    (dict(se_cfg=dict(place='all')), 'place'),
    (dict(se_cfg=dict(placement='first')), 'first'),
    (dict(se_cfg=dict(placement=(0, 9))), '9'),
    (dict(se_cfg=dict(placement=(1, 1, 1))), '(1, 1, 1)'),
    (dict(se_cfg=dict(units='neither')), 'neither'),
    (dict(se_cfg=dict(units=['depthwise'])), 'depthwise'),
    (dict(branches=()), '()'),
    (dict(branches='conv'), 'conv'),
    (dict(branches=('conv', 'pool')), 'pool'),
    (dict(branches=('conv', 'conv')), 'conv'),
    (dict(branches=[['conv']]), 'conv'),
    (dict(in_channels=0), '0'),
    (dict(in_channels='RGB'), 'RGB'),
    (dict(output_stride=3), '3'),
    (dict(output_stride=0), '0'),
    (dict(output_stride='8'), '8'),
    (dict(output_stride=4, dilations=2), 'not both'),
    (dict(dilations=(1, 0)), '0'),
]
BAD_BACKBONE = [
    (dict(out_indices=2), '2'),
    (dict(out_indices=(0, -3)), '-3'),
    (dict(out_indices=(1, -1)), '(1, -1)'),
    (dict(out_indices=()), '()'),
    (dict(out_indices='01'), '01'),
    (dict(out_indices=(True,)), 'True'),
    (dict(frozen_stages=3), '3'),
    (dict(frozen_stages=-2), '-2'),
    (dict(frozen_stages=True), 'True'),
    (dict(act_cfg=dict(type='NoAct')), 'NoAct'),
    (dict(norm_cfg=dict(type='NoNorm')), 'NoNorm'),
    (dict(conv_cfg=dict(type='NoConv')), 'NoConv'),
    (dict(se_cfg=dict(divisor=0)), 'divisor'),
]


def assert_explained(error, value):
    message = str(error.value)
    assert value in message
    assert '\n' not in message
    assert isinstance(error.value, (MobileOneExtError, ValueError))


@pytest.mark.parametrize(('arguments', 'value'), BAD)
def test_a_bad_argument_is_named(arguments, value):
    with pytest.raises(SpecError) as error:
        build_network_spec(**{'arch': TINY, **arguments})
    assert_explained(error, value)


@pytest.mark.parametrize(('arguments', 'value'), [*BAD, *BAD_BACKBONE])
def test_a_bad_argument_is_named_through_the_registry(arguments, value):
    cfg = dict(type='ConfigurableMobileOne', arch=TINY, base_channels=8)
    with pytest.raises(SpecError) as error:
        MODELS.build({**cfg, **arguments})
    assert_explained(error, value)


@pytest.mark.parametrize(
    ('arguments', 'value'),
    [
        (dict(kernel_size=4), 'kernel_size=4'),
        (dict(kernel_size=0), '0'),
        (dict(groups=3), 'groups=3'),
        (dict(stride=0), '0'),
        (dict(dilation=-1), '-1'),
        (dict(out_channels=None), 'None'),
        (dict(branches=('skip',), stride=2), 'stride 2'),
        (dict(branches=('scale',), kernel_size=1), '1x1'),
        (dict(num_conv_branches=0, branches=('conv',)), 'num_conv_branches=0'),
    ],
)
def test_a_bad_unit_is_named(arguments, value):
    cfg = dict(name='here', in_channels=4, out_channels=4, kernel_size=3)
    with pytest.raises(SpecError) as error:
        UnitSpec(**{**cfg, **arguments})
    assert_explained(error, value)
    assert str(error.value).startswith('here: ')


@given(st.integers(1, 6), st.data())
def test_negative_indices_count_from_the_end(stages, data):
    index = data.draw(st.integers(-stages, stages - 1))
    (found,) = resolve_out_indices(index, stages)
    assert found == list(range(stages))[index]
    assert resolve_out_indices([index], stages) == (found,)


@pytest.mark.parametrize(
    ('arch', 'given', 'stages'),
    [
        ('s1', dict(num_blocks=2, width_factor=1.0), 4),
        ('s1', dict(width_factor=[1, 1, 1], num_blocks=1), None),
        (dict(num_blocks=[1, 2], width_factor=1.0), dict(num_blocks=1), 2),
        (dict(num_blocks=1, width_factor=[1, 2, 3]), dict(num_blocks=2), 3),
        (dict(num_blocks=1, width_factor=1.0), dict(), 4),
        (dict(num_blocks=1, width_factor=1.0), dict(num_blocks=(1, 1)), 2),
        (dict(num_blocks=[1] * 3, width_factor=1.0), dict(num_blocks=(1, 1)), 2),
    ],
)
def test_the_number_of_stages_is_that_of_the_first_sequence(arch, given, stages):
    if stages is None:
        with pytest.raises(SpecError, match='num_conv_branches has 4 values'):
            build_network_spec(arch, **given)
    else:
        assert len(build_network_spec(arch, **given).stages) == stages


def test_presets_without_se_take_any_number_of_stages():
    for arch in ('s0', 's3'):
        spec = build_network_spec(arch, num_blocks=(1, 1, 1), width_factor=1.0, num_conv_branches=2)
        assert len(spec.stages) == 3
        assert all(u.se_cfg is None for units in spec.stages for u in units)


def test_more_se_blocks_than_blocks_is_an_error():
    arch = dict(num_blocks=(1, 2), width_factor=1.0, num_se_blocks=(0, 3))
    with pytest.raises(SpecError, match='stage 2 is 3'):
        build_network_spec(arch)
