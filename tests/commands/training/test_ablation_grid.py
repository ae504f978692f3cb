"""Which variants a config and the command line ask for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.commands.training.ablation.grid import Grid, grid_from
from mmpretrain_mobileone_ext.errors import SpecError

K = 'model.backbone.num_conv_branches'
ACT = 'model.backbone.act_cfg'


def test_an_axis_is_read_as_yaml():
    grid = grid_from(None, [f'{ACT}={{type: ReLU}}, {{type: SiLU}}'])
    assert grid.variants == {
        'act_cfg=ReLU': {ACT: {'type': 'ReLU'}},
        'act_cfg=SiLU': {ACT: {'type': 'SiLU'}},
    }
    assert grid.seeds == (0,)


def test_lists_and_null_are_values_too():
    grid = grid_from(None, [f'{K}=[1, 1, 2], 4', 'model.backbone.se_cfg=null'])
    assert list(grid.variants.values()) == [
        {K: [1, 1, 2], 'model.backbone.se_cfg': None},
        {K: 4, 'model.backbone.se_cfg': None},
    ]


def test_named_variants_multiply_with_axes():
    ablation = dict(variants={'plain': {}, 'wide': {'a.b': 2}}, seeds=(3, 4))
    grid = grid_from(ablation, [f'{K}=1,2'])
    assert list(grid.variants) == [
        'plain, num_conv_branches=1',
        'plain, num_conv_branches=2',
        'wide, num_conv_branches=1',
        'wide, num_conv_branches=2',
    ]
    assert grid.variants['wide, num_conv_branches=2'] == {'a.b': 2, K: 2}
    assert grid.seeds == (3, 4)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
)
def test_trials_are_the_product_each_variant_before_any_repeats(ks, seeds):
    grid = grid_from(None, [f'{K}={",".join(map(str, ks))}'], seeds)
    trials = list(grid.trials())
    assert [(t.seed, t.options[K]) for t in trials] == list(itertools.product(seeds, ks))
    assert all(t.options['randomness.seed'] == t.seed for t in trials)
    assert len({t.folder for t in trials}) == len(ks) * len(seeds)


@pytest.mark.parametrize(
    ('ablation', 'vary', 'seeds', 'says'),
    [
        (None, [], None, 'nothing to vary'),
        (dict(variant={}), [], None, "unknown keys ['variant']"),
        (dict(variants={}), [], None, 'at least one entry'),
        (dict(variants={'a': 3}), [], None, 'option dicts'),
        (dict(variants={'a b': {}, 'a/b': {}}), [], None, "share the folder 'a_b"),
        (None, [K], None, 'must be KEY=VALUE'),
        (None, [f'{K}='], None, 'must be KEY=VALUE'),
        (None, ['=1,2'], None, 'must be KEY=VALUE'),
        (None, [f'{K}={{1'], None, 'no YAML list'),
        (None, [f'{K}=1'], [1, 1], 'different integers'),
        (None, [f'{K}=1'], [-1], 'different integers'),
        (None, [f'{K}=1'], [], 'at least one'),
    ],
)
def test_what_cannot_be_read_is_refused(ablation, vary, seeds, says):
    with pytest.raises(SpecError) as caught:
        grid_from(ablation, vary, seeds)
    assert says in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_folder_is_a_safe_name():
    trial = next(Grid({'../k = 4, {x}': {}}, (7,)).trials())
    assert trial.folder == 'k_4_x/seed7'
