"""Names of schemes, what they may cost, and which files hold them."""

from __future__ import annotations

import numpy as np
import pytest

from mmpretrain_mobileone_ext.coreml.compress import SCHEMES
from mmpretrain_mobileone_ext.coreml.compress.scheme import (
    check_scheme,
    fixed_scheme,
    plan_for,
    storage_for,
    tolerance_for,
)
from mmpretrain_mobileone_ext.coreml.compress.storage import (
    DENSE,
    INT8,
    Int4,
    Joint,
    Palette,
    Sparse,
)
from mmpretrain_mobileone_ext.coreml.compress.weights import Weight
from mmpretrain_mobileone_ext.errors import ExportError

PACKAGE, NETWORK = 'mlprogram', 'neuralnetwork'


def weight(name, shape, role='', depthwise=False):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    kind = 'conv' if len(shape) == 4 else 'linear'
    return Weight(name, kind, values, depthwise, role, '')


@pytest.mark.parametrize(
    'scheme',
    [
        *SCHEMES,
        'auto',
        'none',
        'prune1',
        'prune99',
        'palettize3',
        'prune50+int8',
        'prune30+palettize4',
    ],
)
def test_all_are_held_by_ios18(scheme):
    check_scheme(scheme, 'iOS18', PACKAGE)
    check_scheme(scheme, 'iOS26', PACKAGE)


OLDEST = {
    'int8': 16,
    'palettize8': 16,
    'palettize2': 16,
    'prune50': 16,
    'auto': 16,
    'w8a8': 17,
    'joint': 18,
    'palettize3': 18,
    'prune50+int8': 18,
}


@pytest.mark.parametrize('scheme', OLDEST)
def test_oldest_ios(scheme):
    for version in range(15, 19):
        if version >= OLDEST[scheme]:
            check_scheme(scheme, f'iOS{version}', PACKAGE)
            continue
        with pytest.raises(ExportError) as error:
            check_scheme(scheme, f'iOS{version}', PACKAGE)
        message = str(error.value)
        assert f'needs a deployment target of iOS{OLDEST[scheme]}' in message
        assert 'the first that reads ' in message
        assert message.endswith(f'it is iOS{version}')


@pytest.mark.parametrize(
    'scheme', ['zip', 'int3', 'prune0', 'prune100', 'palettize5', 'dense', '', 'JOINT']
)
def test_unknown(scheme):
    for kind in (PACKAGE, NETWORK):
        with pytest.raises(ExportError) as error:
            check_scheme(scheme, 'iOS18', kind)
        assert all(name in str(error.value) for name in (*SCHEMES, 'auto'))
        assert repr(scheme) in str(error.value)


def test_what_an_mlmodel_holds():
    for scheme in ('none', 'int8', 'palettize8', 'palettize2'):
        check_scheme(scheme, 'iOS15', NETWORK)
    for scheme, why in (
        ('prune50', 'sparse'),
        ('joint', 'sparse'),
        ('auto', 'form for each weight'),
        ('w8a8', 'activations'),
    ):
        with pytest.raises(ExportError, match=f'needs an .mlpackage.*{why}'):
            check_scheme(scheme, 'iOS18', NETWORK)


def test_tolerances():
    points = {name: tolerance_for(name).max_drop for name in SCHEMES}
    assert points == {
        'int8': 0.2,
        'palettize8': 0.2,
        'palettize6': 0.5,
        'int4': 1.0,
        'palettize4': 1.0,
        'palettize2': 3.0,
        'prune50': 1.0,
        'prune75': 2.0,
        'joint': 1.5,
        'w8a8': 0.5,
    }
    assert tolerance_for('prune30+int8').max_drop == pytest.approx(1.2)
    assert tolerance_for('int8').name == 'compress-int8'
    given = tolerance_for('palettize2', 0.5)
    assert (given.name, given.max_drop) == ('max-drop 0.5', 0.5)
    assert tolerance_for('auto', 0.5) == given


def test_failure():
    bound = tolerance_for('palettize4')
    assert bound.failure(1.0, 1000) is None
    reason = bound.failure(1.1, 1000)
    assert reason == (
        "top-1 drops by 1.10 points on 1000 images; allowed: 1.00 (tolerance 'compress-palettize4')"
    )
    # One of 20 images is 5 points, and may be a tie.
    assert bound.failure(5.0, 20) is None
    assert bound.failure(10.0, 20)
    # A number that was given is meant.
    assert tolerance_for('auto', 0.5).failure(5.0, 20)
    assert tolerance_for('auto', 0).failure(0.0, 20) is None
    assert bound.failure(-3.0, 20) is None


def test_wrong_budgets():
    with pytest.raises(ExportError, match='needs max_drop'):
        tolerance_for('auto')
    for number in (-0.1, 100.5, float('nan')):
        with pytest.raises(ExportError, match=r'max_drop is .*0 to 100'):
            tolerance_for('int8', number)
    with pytest.raises(ExportError, match="compress is 'none'"):
        tolerance_for('none')


@pytest.mark.parametrize(
    ('scheme', 'role', 'depthwise', 'count', 'wanted'),
    [
        ('int4', '', False, 4096, Int4()),
        ('int4', 'last', False, 4096, INT8),
        ('int4', '', True, 4096, INT8),
        ('palettize4', '', False, 4096, Palette(4)),
        ('palettize4', '', False, 2047, INT8),
        ('palettize4', 'first', False, 4096, INT8),
        ('palettize4', '', True, 4096, INT8),
        ('palettize4', 'last', False, 4096, Palette(6)),
        ('palettize8', 'last', False, 4096, Palette(8)),
        ('palettize4', 'last', False, 1000, INT8),
        ('int8', 'first', False, 100, INT8),
        ('int8', 'last', False, 4096, INT8),
        ('prune50', '', False, 4096, Sparse(50)),
        ('prune50', 'last', False, 4096, Sparse(50)),
        ('prune50', 'first', False, 4096, DENSE),
        ('prune50', '', True, 4096, DENSE),
        ('prune50', '', False, 100, DENSE),
        ('prune25+palettize4', 'last', False, 4096, Joint(Sparse(25), Palette(6))),
        ('prune25+palettize4', '', True, 4096, INT8),
    ],
)
def test_storage_for(scheme, role, depthwise, count, wanted):
    assert storage_for(fixed_scheme(scheme), role, depthwise, count) == wanted


def test_plan_leaves_out_what_would_grow():
    weights = [
        weight('stem', (8, 3, 3, 3), 'first'),
        weight('wide stem', (64, 3, 3, 3), 'first'),
        weight('tiny', (16, 1, 3, 3), depthwise=True),
        weight('large', (128, 64, 1, 1)),
        weight('head', (100, 128), 'last'),
    ]
    assert plan_for(fixed_scheme('palettize4'), weights, 'iOS16') == {
        'wide stem': INT8,
        'large': Palette(4),
        'head': Palette(6),
    }
    assert plan_for(fixed_scheme('prune50'), weights, 'iOS16') == {
        'large': Sparse(50),
        'head': Sparse(50),
    }
    assert set(plan_for(fixed_scheme('int8'), weights, 'iOS16')) == {'wide stem', 'large', 'head'}
    # A sixteenth of sparsity does not pay for the mask.
    assert plan_for(fixed_scheme('prune5'), weights, 'iOS16') == {}
