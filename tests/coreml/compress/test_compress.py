"""Fixed schemes: what is stored, kept, refused, and executed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from compress_kit import (
    METADATA,
    NAMES,
    SHAPE,
    decompressed,
    dense_of,
    images,
    save_small,
    scores_of,
    small_net,
    sparsity,
    stored_of,
)
from runtime_kit import relative_error
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.compress import compress_file
from mmpretrain_mobileone_ext.coreml.compress.apply import apply_plan
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.scheme import SEARCHED
from mmpretrain_mobileone_ext.coreml.compress.storage import (
    DENSE,
    INT8,
    Dense,
    Int4,
    Joint,
    Palette,
    Sparse,
)
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.utils.files import tree_bytes

TARGETS = ('iOS16', 'iOS17', 'iOS18', 'iOS26')
SCHEMES = ('int8', 'palettize8', 'palettize6', 'palettize4', 'palettize2', 'prune50', 'prune75')
#: Largest relative error of the probabilities on noise; sparsity beyond training and two bits
#: change them as a matter of course.
BOUNDS = {'int8': 0.02, 'palettize8': 0.02, 'palettize6': 0.05, 'palettize4': 0.2, 'w8a8': 0.05}
STEM, FIRST_DW, FIRST_PW, SECOND_DW, SECOND_PW, CLASSIFIER = range(6)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sources')
    return {t: save_small(folder, t, name=t) for t in TARGETS}


@pytest.fixture(scope='module')
def original(sources):
    return scores_of(sources['iOS16'], images())


CASES = [
    *itertools.product(('iOS16', 'iOS18'), SCHEMES),
    ('iOS17', 'palettize4'),
    ('iOS17', 'w8a8'),
    ('iOS26', 'int4'),
    ('iOS26', 'palettize4'),
    ('iOS26', 'joint'),
    ('iOS26', 'w8a8'),
    ('iOS18', 'w8a8'),
    ('iOS18', 'joint'),
    ('iOS18', 'palettize3'),
    ('iOS18', 'prune25+int8'),
    ('iOS18', 'prune50+palettize4'),
]


@pytest.mark.parametrize(('target', 'scheme'), CASES)
def test_schemes(sources, original, target, scheme, tmp_path):
    """Executed in fp16 as coremltools' dense copy of the same weights is."""
    out = tmp_path / 'small.mlpackage'
    source = sources[target]
    assert compress_file(source, scheme, out, [images(32, seed=1)]) == out
    assert tree_bytes(out) < tree_bytes(source)
    got = scores_of(out, images())
    dense = decompressed(out, tmp_path)
    assert not any(stored_of(dense).values())
    assert relative_error(got, scores_of(dense, images())) < 1e-6
    assert 0 < relative_error(got, original) < BOUNDS.get(scheme, 2)
    mine, theirs = dense_of(out), dense_of(dense)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_a_changed_weight_is_noticed(sources, tmp_path):
    """The comparison above fails on another table."""
    a, b = tmp_path / 'a.mlpackage', tmp_path / 'b.mlpackage'
    compress_file(sources['iOS16'], 'palettize8', a)
    compress_file(sources['iOS16'], 'palettize6', b)
    x = images()
    assert relative_error(scores_of(a, x), scores_of(b, x)) > 1e-4


@pytest.mark.parametrize('target', TARGETS)
def test_interface_and_metadata_stay(sources, target, tmp_path):
    out = compress_file(sources[target], 'palettize4', tmp_path / 'out.mlpackage')
    before, after = read_program(sources[target]), read_program(out)
    assert after.classes == before.classes == tuple(NAMES)
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    assert after.spec_version == before.spec_version
    metadata = dict(after.metadata)
    assert METADATA.items() <= metadata.items()
    assert (metadata['author'], metadata['license']) == ('A. Author', 'MIT')


def test_which_layer_gets_which_form(sources, tmp_path):
    out = compress_file(sources['iOS16'], 'palettize4', tmp_path / 'out.mlpackage')
    stored = list(stored_of(out).values())
    affine, lut = 'constexpr_affine_dequantize', 'constexpr_lut_to_dense'
    # 144 weights of the first depthwise layer are not worth bookkeeping, nor are the 640 of the
    # classifier or the 432 of the stem.
    assert stored == ['', '', lut, affine, lut, affine]
    values = list(dense_of(out).values())
    assert len(np.unique(values[FIRST_PW])) <= 16
    assert len(np.unique(values[SECOND_PW])) <= 16
    assert len(np.unique(values[SECOND_DW])) > 16


ALONE = [s for s in SEARCHED[1:] if not isinstance(s, Joint)]
#: Of integers, as a share of the largest value.
STEPS = {'int8': 2 / 255, 'int4': 1 / 7}
JOINT = [s for s in SEARCHED if isinstance(s, Joint)]


@pytest.mark.parametrize(
    'ways',
    [ALONE[:6], ALONE[-6:], [Int4()] * 6, JOINT[:6], JOINT[5:11], JOINT[-6:]],
    ids=lambda w: w[0].name,
)
def test_weights_are_as_coremltools_stores_them(sources, ways, tmp_path):
    """Tables and zeros exactly, integers up to a step: an fp16 scale moves a tie."""
    weights = find_weights(read_program(sources['iOS18']))
    plan = {w.name: storage for w, storage in zip(weights, ways)}
    found = dense_of(apply_plan(sources['iOS18'], plan, tmp_path / 'out.mlpackage', Palettes()))
    for weight, storage in zip(weights, ways):
        mine = storage.approximate(weight.values, 'iOS18', Palettes())
        step = next((s for n, s in STEPS.items() if n in storage.name), 0)
        bound = step * np.abs(weight.values).max()
        error = np.abs(mine - found[weight.name])
        assert error.max() <= bound, storage.name
        assert error.mean() <= bound / 40, storage.name
        other = DENSE if storage.max_drop > 0.2 else Palette(1)
        other = other.approximate(weight.values, 'iOS18', Palettes())
        assert np.abs(other - found[weight.name]).mean() > bound / 40, storage.name


def test_pruning_reaches_its_share_on_large_weights(tmp_path):
    """coremltools alone prunes nothing beyond 65504 weights of fp16."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 9000, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9000, 10),
        nn.Softmax(1),
    ).eval()
    source = save_small(tmp_path, net=net)
    out = compress_file(source, 'prune75', tmp_path / 'out.mlpackage')
    _, pointwise, classifier = dense_of(out).values()
    assert pointwise.size > 65504
    for weight in (pointwise, classifier):
        assert sparsity(weight) == pytest.approx(0.75, abs=0.01)
    kept = np.abs(classifier[classifier != 0]).min()
    lost = np.abs(dense_of(source)['linear_0_cast_fp16'][classifier == 0])
    assert kept > lost.max()
    assert tree_bytes(out) < 0.75 * tree_bytes(source)


def test_prune_threshold():
    values = np.array([[3, -1], [0.5, 2]], np.float16)
    assert Sparse(50).threshold(values) == 1
    assert Sparse(75).threshold(values) == 2
    assert Sparse(1).threshold(values) == 0.5


def test_flexible_shapes_stay(tmp_path):
    ct = quiet.coremltools()
    sizes = [SHAPE, (1, 3, 20, 16)]
    net = small_net()[:-1]
    source = save_small(
        tmp_path,
        net=net,
        classifier_config=None,
        inputs=[ct.TensorType('image', shape=ct.EnumeratedShapes(sizes))],
    )
    out = compress_file(source, 'palettize8', tmp_path / 'out.mlpackage')
    specs = [ct.models.MLModel(str(p), skip_model_load=True).get_spec() for p in (source, out)]
    kinds = [s.description.input[0].type for s in specs]
    assert kinds[0] == kinds[1]
    allowed = kinds[1].multiArrayType.enumeratedShapes.shapes
    assert len(allowed) == 2


def test_fp32_stays_fp32(tmp_path):
    ct = quiet.coremltools()
    source = save_small(tmp_path, compute_precision=ct.precision.FLOAT32)
    out = compress_file(source, 'palettize4', tmp_path / 'out.mlpackage')
    program = read_program(out)
    floats = {d for op in program.operations for d in op.dtypes}
    assert 'fp16' not in floats
    assert all(w.values.dtype == np.float32 for w in find_weights(program))


def test_dead_channels(tmp_path):
    """Training leaves channels of zeros; their scale would be zero."""
    net = small_net()
    with torch.no_grad():
        for layer in net:
            if hasattr(layer, 'weight'):
                layer.weight[3] = 0
    source = save_small(tmp_path, net=net)
    for scheme in ('int8', 'palettize4', 'prune50'):
        out = compress_file(source, scheme, tmp_path / f'{scheme}.mlpackage')
        assert torch.isfinite(scores_of(out, images())).all()
        for weight in dense_of(out).values():
            assert (np.abs(weight[3]) < 1e-3).all() or scheme == 'palettize4'


def test_refused(sources, tmp_path):
    out = tmp_path / 'out.mlpackage'
    with pytest.raises(ExportError, match='needs a deployment target of iOS1'):
        compress_file(sources['iOS16'], 'joint', out)
    with pytest.raises(ExportError, match='none were given'):
        compress_file(sources['iOS17'], 'w8a8', out)
    with pytest.raises(ExportError, match="compress is 'zip'; allowed: none"):
        compress_file(sources['iOS16'], 'zip', out)
    done = compress_file(sources['iOS16'], 'int8', tmp_path / 'in.mlpackage')
    with pytest.raises(ExportError, match='already stored as constexpr_aff'):
        compress_file(done, 'int8', out)
    assert not out.exists()


def test_plans_are_checked(sources, tmp_path):
    out, source = tmp_path / 'out.mlpackage', sources['iOS16']
    with pytest.raises(ExportError, match="no operation 'x' with a weight"):
        apply_plan(source, {'x': Palette(4)}, out, Palettes())
    name = next(iter(dense_of(source)))
    with pytest.raises(ExportError, match='needs a deployment target of iOS'):
        apply_plan(source, {name: Palette(3)}, out, Palettes())
    assert not out.exists()


class Skipped(Dense):
    """coremltools has nothing to do for it."""

    name = 'skipped'


def test_what_coremltools_skips_is_an_error(sources, tmp_path):
    name = next(iter(dense_of(sources['iOS16'])))
    with pytest.raises(ExportError, match=f'left the weights of {name}'):
        apply_plan(sources['iOS16'], {name: Skipped()}, tmp_path / 'out.mlpackage', Palettes())


def test_nothing_worth_compressing(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10), nn.Softmax(1)
    ).eval()
    source = save_small(tmp_path, net=net)
    with pytest.raises(ExportError, match='would make none of its weights'):
        compress_file(source, 'int8', tmp_path / 'out.mlpackage')


def test_other_mixed_plans_keep_what_they_do_not_name(sources, tmp_path):
    names = list(dense_of(sources['iOS18']))
    plan = {
        names[FIRST_PW]: Joint(Sparse(50), INT8),
        names[SECOND_PW]: Palette(2),
        names[CLASSIFIER]: Sparse(20),
    }
    out = apply_plan(sources['iOS18'], plan, tmp_path / 'out.mlpackage', Palettes())
    before, after = dense_of(sources['iOS18']), dense_of(out)
    for name in names:
        assert np.array_equal(before[name], after[name]) == (name not in plan)
    assert sparsity(after[names[FIRST_PW]]) >= 0.5
    assert load_program(out).predict_batch(images(2))
