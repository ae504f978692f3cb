"""Compressed ``.aimodel`` files: what is stored, what it computes, and within which budget."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from coreai_kit import needs_core_ai, storage_types, stored_values
from export_kit import HEAD, TINY, build, files, model_cfg, photos, relative, save, write_config
from torch import nn

from mmpretrain_mobileone_ext.coreai import compress, extra
from mmpretrain_mobileone_ext.coreai.compress import (
    apply_plan,
    compress_file,
    read_weights,
    size_of,
)
from mmpretrain_mobileone_ext.coreml.compress.codes import integers
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.scheme import fixed_scheme
from mmpretrain_mobileone_ext.coreml.compress.storage import DENSE, Int8
from mmpretrain_mobileone_ext.coreml.convert import INPUT, PROBABILITIES
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.errors import ExportError, MobileOneExtError, ParityError
from mmpretrain_mobileone_ext.export.network import prepare
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.models.preprocessing import read_preprocessing
from mmpretrain_mobileone_ext.report.forms import compression_of
from mmpretrain_mobileone_ext.utils.files import tree_bytes

CLASSES = [f'class {i}' for i in range(20)]
PLAIN = dict(classes=CLASSES, image_size=[32], verify_data='none')
#: Scheme to the types that its codes are stored as.
CODED = {
    'int8': {'Int8'},
    'int4': {'Int4', 'Int8'},
    'palettize8': {'UInt8'},
    'palettize6': {'UInt6'},
    'palettize4': {'UInt4', 'UInt6'},
    'palettize3': {'UInt3', 'UInt6'},
    'palettize2': {'UInt2', 'UInt6'},
    'palettize1': {'UInt1', 'UInt6'},
    'prune50': {'UInt1'},
    'joint': {'UInt1', 'UInt6'},
    'prune50+int8': {'UInt1', 'Int8'},
    'prune50+palettize4': {'UInt1', 'UInt4'},
}
FAST = ('int8', 'int4', 'palettize6', 'joint')


@pytest.fixture(scope='module')
def model():
    """Two large pointwise layers, and a classifier of 2560 numbers."""
    backbone = dict(TINY, arch=dict(num_blocks=(1, 1), width_factor=1.0))
    return build(model_cfg(backbone, dict(HEAD, in_channels=128, num_classes=20)))


@pytest.fixture(scope='module')
def sources(model, tmp_path_factory):
    """Precision to a file."""
    folder = tmp_path_factory.mktemp('sources')
    for precision in ('fp16', 'fp32'):
        options = ExportOptions(folder / f'{precision}.aimodel', precision=precision, **PLAIN)
        run_export(model, None, options)
    return {path.stem: path for path in folder.iterdir()}


def pixels(count=2):
    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 3, 32, 32, generator=generator)


def run(path):
    return format_of(path).load(path).predict_batch({INPUT: pixels()})[PROBABILITIES]


def with_weights(model, values):
    """Probabilities by torch, in fp32, of the network that is converted with other weights."""
    pre = read_preprocessing(model.data_preprocessor, 3, (32, 32), 'BGR')
    graph = copy.deepcopy(prepare(model, pre).graph(pre.mean))
    layers = [m for m in graph.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == len(values)
    with torch.no_grad():
        for layer, value in zip(layers, values):
            layer.weight.copy_(torch.from_numpy(value).reshape(layer.weight.shape))
        (found,) = [graph(pixels())] if torch.is_tensor(graph(pixels())) else graph(pixels())
    return found


@needs_core_ai
@pytest.mark.parametrize(
    ('scheme', 'precision'),
    [
        *((scheme, 'fp16') for scheme in FAST),
        *(pytest.param(s, 'fp16', marks=pytest.mark.slow) for s in CODED if s not in FAST),
        *(pytest.param(s, 'fp32', marks=pytest.mark.slow) for s in FAST),
    ],
)
def test_weights_are_what_the_file_computes_with(model, sources, tmp_path, scheme, precision):
    source, out = sources[precision], tmp_path / 'm.aimodel'
    assert compress_file(source, scheme, out) == out
    types, before = storage_types(out), storage_types(source)
    floats = 'Float16' if precision == 'fp16' else 'Float32'
    assert types.keys() >= CODED[scheme]
    assert types[floats] < (0.8 if scheme == 'prune50' else 0.4) * before[floats]
    assert tree_bytes(out) < 0.9 * tree_bytes(source)
    stored, found = stored_values(out), run(out)
    bound = 1e-3 if precision == 'fp16' else 1e-5
    assert relative(found, with_weights(model, stored)) < bound
    moved = [stored[0] * 1.02, *stored[1:]]
    assert relative(found, with_weights(model, moved)) > bound


@needs_core_ai
@pytest.mark.parametrize('scheme', [*CODED, 'prune25'])
def test_weights_are_those_of_core_ml(sources, tmp_path, scheme):
    """Tables and zeros exactly; integers up to a step, as coremltools rounds for another scale."""
    weights, storage = read_weights(sources['fp16']), fixed_scheme(scheme)
    plan = {w.name: storage for w in weights}
    stored = stored_values(apply_plan(sources['fp16'], plan, tmp_path / 'm.aimodel', Palettes()))
    for weight, found in zip(weights, stored):
        wanted = storage.approximate(weight.values, 'iOS27', Palettes())
        error, largest = np.abs(found - wanted), np.abs(weight.values).max()
        step = largest * (1 / 7 if scheme == 'int4' else 2 / 127 if 'int8' in scheme else 0)
        assert error.max() <= step
        assert error.mean() <= step / 4
        assert np.abs(weight.values - wanted).mean() > 0


@needs_core_ai
@pytest.mark.parametrize('scheme', ['int8', 'int4'])
def test_integers_are_those_of_coreai_opt(sources, tmp_path, scheme):
    theirs = pytest.importorskip('coreai_opt.coreai_utils')
    from coreai.authoring import AIModelAsset

    options = dict(
        int8=dict(dtype=theirs.DType.INT8, qscheme=theirs.QScheme.ASYMMETRIC),
        int4=dict(
            dtype=theirs.DType.INT4,
            granularity=theirs.CompressionGranularity.PER_BLOCK,
            block_size=32,
        ),
    )
    program = AIModelAsset.load(sources['fp32']).program
    made = theirs.quantize_weights(program, **options[scheme])
    made.save_asset(tmp_path / 'theirs.aimodel')
    wanted = stored_values(tmp_path / 'theirs.aimodel')
    weights, storage = read_weights(sources['fp32']), fixed_scheme(scheme)
    plan = {w.name: storage for w in weights}
    found = stored_values(apply_plan(sources['fp32'], plan, tmp_path / 'm.aimodel', Palettes()))
    compared = 0
    for weight, mine, other in zip(weights, found, wanted):
        if np.array_equal(other, weight.values):
            continue  # small, or not of whole blocks
        step = np.abs(weight.values).max() * (1 / 7 if scheme == 'int4' else 2 / 255)
        # Theirs adds 1e-6 to every range, which moves ties.
        assert np.abs(mine - other).max() <= 1.01 * step
        assert np.abs(mine - other).mean() < 0.1 * np.abs(mine - weight.values).mean()
        compared += 1
    assert compared >= 2


@needs_core_ai
def test_which_layer_gets_which_form(sources, tmp_path):
    weights = read_weights(sources['fp16'])
    assert [w.role for w in weights] == ['first', *[''] * (len(weights) - 2), 'last']
    shapes = [w.values.shape for w in weights]
    assert [w.depthwise for w in weights] == [s[1] == 1 for s in shapes]
    assert any(w.depthwise for w in weights)
    assert shapes[-1] == (20, 128, 1, 1)
    stored = stored_values(compress_file(sources['fp16'], 'palettize4', tmp_path / 'm.aimodel'))
    for weight, found in zip(weights, stored):
        count = len(np.unique(found))
        if weight.role == 'last':
            assert 16 < count <= 64
        elif weight.role == '' and not weight.depthwise:
            assert count <= 16 * len(weight.values) // 8
        else:
            assert np.abs(found - weight.values).max() <= 0.01 * np.abs(weight.values).max()


@needs_core_ai
def test_interface_and_metadata_stay(sources, tmp_path):
    before = format_of(sources['fp16']).describe(sources['fp16'])
    out = compress_file(sources['fp16'], 'int8', tmp_path / 'm.aimodel')
    after = format_of(out).describe(out)
    assert after.classes == before.classes == tuple(CLASSES)
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    assert after.metadata == before.metadata
    assert 'author' in after.metadata
    assert after.count_operations() == before.count_operations()


@needs_core_ai
def test_bytes_as_on_disk(sources, tmp_path):
    source = apply_plan(sources['fp16'], {}, tmp_path / 'source.aimodel', Palettes())
    weights = read_weights(source)
    for scheme in CODED:
        storage, out = fixed_scheme(scheme), tmp_path / f'{scheme}.aimodel'
        apply_plan(source, {w.name: storage for w in weights}, out, Palettes())
        wanted = sum(size_of(storage, w.values) - size_of(DENSE, w.values) for w in weights)
        found = tree_bytes(out) - tree_bytes(source)
        assert abs(found - wanted) < 60 * len(weights), scheme


@needs_core_ai
def test_a_weight_that_two_layers_share_is_stored_once(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 1, bias=False)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    from coreai_torch import TorchConverter, get_decomp_table

    exported = torch.export.export(Shared().eval(), (torch.rand(1, 64, 4, 4),))
    made = TorchConverter().add_exported_program(exported.run_decompositions(get_decomp_table()))
    made.to_coreai().save_asset(tmp_path / 'shared.aimodel')
    (weight,) = read_weights(tmp_path / 'shared.aimodel')
    assert weight.name == 'conv2d_0'
    plan = {weight.name: fixed_scheme('palettize4')}
    out = apply_plan(tmp_path / 'shared.aimodel', plan, tmp_path / 'm.aimodel', Palettes())
    first, second = stored_values(out)
    np.testing.assert_array_equal(first, second)
    assert storage_types(out)['UInt4'] == weight.values.size


@pytest.fixture(scope='module')
def case(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    cfg = model_cfg(
        dict(TINY, arch=dict(num_blocks=(1, 1), width_factor=1.0)),
        dict(HEAD, in_channels=128, num_classes=20),
    )
    data = photos(folder / 'data', 2)
    assert files(data)
    config = write_config(folder / 'c.py', data, cfg)
    return config, save(model, folder / 'c.pth', CLASSES)


@needs_core_ai
@pytest.mark.parametrize(
    'precision', ['fp16', *(pytest.param(p, marks=pytest.mark.slow) for p in ('fp32', 'auto'))]
)
def test_an_export_compresses_and_says_so(case, tmp_path, precision):
    out = tmp_path / 'm.aimodel'
    options = dict(precision=precision, compress='int8', classes=CLASSES, verify_data=2)
    result = run_export(*case, ExportOptions(out, **options))
    assert list(tmp_path.iterdir()) == [out]
    assert tree_bytes(out) == result.size_bytes < 0.75 * result.plain_bytes
    assert dict(result.rows())['compression'].startswith('int8: 0.')
    assert storage_types(out)['Int8'] > 12_000
    program = format_of(out).describe(out)
    assert program.metadata['compression'] == 'int8'
    assert compression_of(program) == ('int8',)
    # What makes weights dense is no operation of the network.
    assert program.count_operations() == result.compression.plain.verification.operations


@needs_core_ai
def test_what_loses_more_than_the_budget_is_not_written(case, tmp_path, monkeypatch):
    def encode(self, values, target, palettes):
        # The classifier's: what was the best class becomes a bad one.
        return integers(
            -values if len(values) == len(CLASSES) else values, 8, values.shape[1], True
        )

    monkeypatch.setattr(Int8, 'encode', encode)
    options = dict(compress='int8', classes=CLASSES, verify_data='none')
    with pytest.raises(ParityError, match=r'nothing is written, compress int8: top-1 drops by'):
        run_export(*case, ExportOptions(tmp_path / 'm.aimodel', **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_core_ai
@pytest.mark.parametrize('budget', [0.0, 100.0])
def test_auto_is_the_smallest_within_the_budget(case, tmp_path, monkeypatch, budget):
    """Without steps beyond the fixed schemes and the path of mixtures."""
    for name in ('_PROBES', '_REPAIRS', '_MORE'):
        monkeypatch.setattr(compress, name, 0)
    options = dict(compress='auto', max_drop=budget, classes=CLASSES, verify_data=4)
    result = run_export(*case, ExportOptions(tmp_path / 'm.aimodel', **options))
    found = result.compression
    fixed = [c for c in found.candidates if c.kind == 'fixed']
    assert {'int8', 'int4', 'palettize4', 'joint'} <= {c.scheme for c in fixed}
    assert any(c.kind == 'mixed' for c in found.candidates)
    assert found.chosen.drop_points <= budget
    assert found.chosen.size_bytes == min(c.size_bytes for c in found.candidates if c.fits)
    assert list(tmp_path.iterdir()) == [tmp_path / 'm.aimodel']
    if budget:
        assert found.chosen.size_bytes <= min(c.size_bytes for c in fixed)


def test_what_it_cannot_hold_is_said_before_any_work(tmp_path):
    with pytest.raises(
        ExportError, match=r"'w8a8': an .aimodel .* weights only; allowed: none, int8"
    ):
        ExportOptions(tmp_path / 'm.aimodel', compress='w8a8')
    with pytest.raises(ExportError, match="compress is 'zip'; allowed: none, int8"):
        ExportOptions(tmp_path / 'm.aimodel', compress='zip')


def test_without_the_extra_a_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(extra, 'find_spec', lambda name: None)
    with pytest.raises(ExportError, match=r'coreai-core is missing; to compress.*\[coreai\]'):
        compress_file(tmp_path / 'm.aimodel', 'int8', tmp_path / 'out.aimodel')


@needs_core_ai
def test_damage_and_strange_plans_are_one_line(sources, tmp_path):
    broken = Path(shutil.copytree(sources['fp16'], tmp_path / 'broken.aimodel'))
    (broken / 'main.mlirb').write_bytes(b'no program')
    out = tmp_path / 'out.aimodel'
    for path, plan in ((broken, {}), (sources['fp16'], {'conv2d_99': fixed_scheme('int8')})):
        with pytest.raises(MobileOneExtError) as error:
            apply_plan(path, plan, out, Palettes())
        assert '\n' not in str(error.value)
    assert 'it has: conv2d_0' in str(error.value)
    small = compress_file(sources['fp16'], 'int8', tmp_path / 'small.aimodel')
    with pytest.raises(ExportError, match='none of its weights smaller'):
        compress_file(small, 'int8', out)
    assert not out.exists()
