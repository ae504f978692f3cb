"""Files hold the integers that a network was trained with, and compute what it computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_kit import HEAD, TINY, build, model_cfg, photos, save, write_config
from helpers import assert_close
from trained_kit import (
    ALL_KINDS,
    FORMS,
    SIZE,
    TARGETS,
    layer_values,
    layers_of,
    logits,
    pixels,
    quantized,
    stored_integers,
    trained_integers,
)

from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.coreml import front_end
from mmpretrain_mobileone_ext.coreml.compress import compress_file, given
from mmpretrain_mobileone_ext.coreml.runtime.load import load_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.verify import tolerance_of
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.models import MobileOneBlock, switch_to_deploy
from mmpretrain_mobileone_ext.models import quantization as q
from mmpretrain_mobileone_ext.utils.parity import compare

BOUNDS = dict(fp16=1e-2, fp32=1e-4)


def export(model, out, form='w8', checkpoint=None, **options):
    """With the form's own deployment target and, of a module, its image size."""
    given = dict(deployment_target=TARGETS.get(form, 'iOS18'), input='tensor')
    if checkpoint is None:
        given['image_size'] = SIZE
    asked = ExportOptions(out=out, **{**given, **options})
    return run_export(model, checkpoint, asked)


def scores(path, images, precision='fp16'):
    found = load_program(path, arithmetic=precision).predict_batch({'image': images})
    return found['classLabel_probs']


@pytest.mark.parametrize('precision', BOUNDS)
@pytest.mark.parametrize(
    'backbone', [pytest.param(TINY, marks=pytest.mark.slow), ALL_KINDS], ids=['tiny', 'all']
)
@pytest.mark.parametrize('form', FORMS)
def test_the_file_computes_what_was_trained(tmp_path, form, backbone, precision):
    model, images = quantized(form, backbone), pixels()
    result = export(model, tmp_path / 'a.mlpackage', form, precision=precision)
    assert result.compression.scheme == 'trained'
    bound = 'compress-trained-with-steps' if form.endswith('a8') else 'compress-trained'
    assert result.tolerance == bound
    wanted = logits(model, images).softmax(1)
    found = scores(result.path, images, precision)
    if form.endswith('a8'):  # a step may go either way, and on another processor another one
        assert compare(wanted, found).failure(tolerance_of(precision, steps=True)) is None
        return
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert_close([wanted], [found], BOUNDS[precision])


@pytest.mark.parametrize('precision', ['fp16', pytest.param('fp32', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'backbone', [pytest.param(TINY, marks=pytest.mark.slow), ALL_KINDS], ids=['tiny', 'all']
)
@pytest.mark.parametrize('form', FORMS)
def test_every_layer_in_the_file_is_the_trained_one(tmp_path, form, backbone, precision):
    """Of what it reads in the file: in fp16 a number between two steps may go to either."""
    model = quantized(form, backbone)
    out = export(model, tmp_path / 'a.mlpackage', form, precision=precision).path
    values, close = layer_values(out, pixels(), precision), BOUNDS[precision] / 10
    for (layer, own), (read, got, source) in zip(layers_of(model), values, strict=True):
        with torch.no_grad():
            assert_close([layer(read)], [got.view_as(layer(read))], close)
        grid = None if own is None else own.grid()
        assert (source is None) == (grid is None)
        if grid is not None:
            steps = read / grid.scale
            assert_close([steps.round()], [steps], close)
            assert grid.low <= steps.round().min() <= steps.round().max() <= grid.high
            exact = (source / grid.scale).clamp(grid.low, grid.high)
            assert ((steps.round() - exact).abs() <= 0.5 + close * exact.abs()).all()


@pytest.mark.parametrize('precision', ['fp16', pytest.param('fp32', marks=pytest.mark.slow)])
@pytest.mark.parametrize('target', ['iOS16', pytest.param('iOS18', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'backbone', [pytest.param(TINY, marks=pytest.mark.slow), ALL_KINDS], ids=['tiny', 'all']
)
@pytest.mark.parametrize('form', FORMS)
def test_the_integers_in_the_file_are_the_trained_ones(tmp_path, form, backbone, target, precision):
    model = quantized(form, backbone)
    result = export(
        model,
        tmp_path / 'a.mlpackage',
        precision=precision,
        deployment_target=max(target, TARGETS[form]),
    )
    stored = stored_integers(result.path)
    dtype = np.float16 if precision == 'fp16' else np.float32
    for (codes, scale), (held, by, kind) in zip(trained_integers(model), stored, strict=True):
        assert kind == f'int{FORMS[form][0]}'
        assert np.array_equal(codes, held.astype(np.int32))
        assert by.dtype == dtype
        assert np.array_equal(scale.astype(dtype), by.reshape(scale.shape))


@pytest.mark.parametrize('block_size', [32, 16, None])
def test_four_bits_are_those_of_int4(tmp_path, block_size):
    """Layer by layer the bits, and the blocks and integers of 4 bits; other blocks are other ones.

    One of the four layers has 48 input channels, which 32 do not divide.
    """
    arch = dict(num_blocks=(1, 1, 2), width_factor=1.0)
    wide = dict(TINY, arch=arch, base_channels=(64, 48, 64))
    model = build(model_cfg(wide, head=dict(HEAD, in_channels=64)))
    q.add_quantizers(model, weights=4, block_size=block_size)
    after = export(model, tmp_path / 'a.mlpackage', 'w4', compress='int4', precision='fp32')
    for own in q.quantizers(model):
        own.phase = own.ON
    trained = export(model, tmp_path / 'b.mlpackage', 'w4', precision='fp32')
    same, others = 0, stored_integers(after.path, symmetric=False)
    found = stored_integers(trained.path)
    for (codes, by, kind), (own_codes, own_by, own_kind) in zip(others, found, strict=True):
        assert kind == own_kind
        if kind == 'int4':
            same += by.shape == own_by.shape and np.array_equal(codes, own_codes)
    assert [kind for *_, kind in found].count('int4') == 4
    assert same == {32: 4, 16: 0, None: 1}[block_size]


def test_a_channel_of_zeros_has_integers_too(tmp_path):
    model = quantized('w4')
    with torch.no_grad():
        model.head.fc.weight[1] = 0
        for branch in model.backbone.stage1[1].branches():
            norm = branch.norm if hasattr(branch, 'norm') else branch
            norm.weight[3] = 0
    out = export(model, tmp_path / 'a.mlpackage', 'w4').path
    for (codes, _), (held, *_) in zip(trained_integers(model), stored_integers(out), strict=True):
        assert np.array_equal(codes, held.astype(np.int32))
    assert not trained_integers(model)[-1][0][1].any()


@pytest.mark.parametrize(
    ('std', 'folds'), [((60.0, 60.0, 60.0), True), ((60.0, 50.0, 40.0), False)]
)
def test_std_is_folded_where_the_integers_stay(tmp_path, std, folds):
    model = quantized('w8', preprocessor=dict(std=list(std)))
    result = export(model, tmp_path / 'a.mlpackage', precision='fp32')
    assert ('in the first convolution' in result.job.prepared.normalization) == folds
    first = stored_integers(result.path)[0]
    codes, scale = trained_integers(model)[0]
    assert np.array_equal(codes, first[0])
    np.testing.assert_allclose(first[1].reshape(scale.shape), scale / (60 if folds else 1), 1e-6)


def test_what_a_float_network_cannot(tmp_path):
    model = build()
    with pytest.raises(ExportError, match="'trained': the network was not trained with integers"):
        export(model, tmp_path / 'a.mlpackage', compress='trained')
    assert export(model, tmp_path / 'a.mlpackage').compression is None
    model = quantized()
    for own in q.quantizers(model):
        own.phase = own.OFF
    assert export(model, tmp_path / 'b.mlpackage').compression is None
    with pytest.raises(ExportError, match='was not trained'):
        export(model, tmp_path / 'c.mlpackage', compress='trained')


@pytest.mark.parametrize('scheme', ['int8', 'palettize4', 'prune50', 'w8a8', 'auto'])
def test_another_rounding_is_refused(tmp_path, scheme):
    message = f"compress '{scheme}': the network was trained with weights of 8 bits, which another"
    with pytest.raises(ExportError, match=message):
        export(quantized(), tmp_path / 'a.mlpackage', compress=scheme, deployment_target='iOS17')


@pytest.mark.parametrize(
    ('form', 'target', 'options', 'message'),
    [
        ('w8', 'iOS15', {}, 'weights of 8 bits, which need a deployment target of iOS16 or later'),
        (
            'w4',
            'iOS17',
            {},
            'weights of 4 bits, .* of iOS18 or later; it is iOS17; --compress none',
        ),
        ('w8a8', 'iOS16', {}, 'activations of 8 bits, .* of iOS17 or later; it is iOS16$'),
        ('w8a8', 'iOS16', {'compress': 'none'}, 'activations of 8 bits, .* of iOS17 or later'),
        ('w4a8', 'iOS17', {}, 'weights of 4 bits'),
        ((16, None), 'iOS18', {}, 'a file holds weights of 4 or 8 bits'),
        ((8, 16), 'iOS18', {}, 'activations of 16 bits; a file holds'),
    ],
)
def test_what_a_system_cannot_read_is_refused(tmp_path, form, target, options, message):
    with pytest.raises(ExportError, match=message):
        export(quantized(form), tmp_path / 'a.mlpackage', deployment_target=target, **options)


@pytest.mark.parametrize('form', FORMS)
def test_a_dense_file_holds_the_rounded_weights(tmp_path, form):
    model = quantized(form)
    result = export(model, tmp_path / 'a.mlpackage', form, compress='none', precision='fp32')
    assert not stored_integers(result.path)
    assert any('were trained; the weights are stored as fp32' in note for note in result.notes)
    wanted = logits(model, pixels()).softmax(1)
    bound = tolerance_of('fp32', steps=form.endswith('a8'))
    assert compare(wanted, scores(result.path, pixels(), 'fp32')).failure(bound) is None


def test_an_older_file_is_dense_or_refused(tmp_path):
    model = quantized('w4')
    result = export(model, tmp_path / 'a.mlmodel', precision='fp32')
    assert_close(
        [logits(model, pixels()).softmax(1)], [scores(result.path, pixels(), 'fp32')], 1e-4
    )
    with pytest.raises(ExportError, match=r'a \.mlmodel has no integers that are given'):
        export(model, tmp_path / 'b.mlmodel', compress='trained')
    with pytest.raises(ExportError, match=r'a \.mlmodel has no quantized activations'):
        export(quantized('w8a8'), tmp_path / 'b.mlmodel')


def test_a_layer_without_its_weight_in_the_file_is_refused(tmp_path):
    model = quantized()
    result = export(model, tmp_path / 'a.mlpackage', compress='none')
    first, *others = result.job.prepared.trained
    changed = replace(first, weight=first.weight * 1.01)
    given.store_trained(result.path, others, tmp_path / 'b.mlpackage')
    with pytest.raises(ExportError, match=f'no weight in it has the values of {first.name}, so'):
        given.store_trained(result.path, [changed, *others], tmp_path / 'c.mlpackage')
    assert not (tmp_path / 'c.mlpackage').exists()


def test_a_file_alone_has_no_integers(tmp_path):
    result = export(quantized(), tmp_path / 'a.mlpackage', compress='none')
    with pytest.raises(ExportError, match='are in the network, not in a file'):
        compress_file(result.path, 'trained', tmp_path / 'b.mlpackage')


@torch.no_grad()
def test_layers_with_the_same_weights_are_both_stored(tmp_path):
    arch = dict(TINY['arch'], num_blocks=(1, 3))
    model = switch_to_deploy(quantized('w8', dict(TINY, arch=arch)))
    blocks = [b for b in model.modules() if isinstance(b, MobileOneBlock)]
    first, second = (b for b in blocks if b.branch_reparam.weight.shape == (32, 32, 1, 1))
    second.branch_reparam.weight.copy_(first.branch_reparam.weight)
    result = export(model, tmp_path / 'a.mlpackage')
    assert len(stored_integers(result.path)) == len(trained_integers(model)) - 1


@pytest.fixture
def run(tmp_path):
    """A config with data and checkpoints of a network with everything rounded."""
    model = quantized('w8a8')
    data = photos(tmp_path)
    config = write_config(tmp_path / 'config.py', data)
    return model, config, save(model, tmp_path / 'epoch_1.pth')


def test_a_checkpoint_says_what_was_trained(tmp_path, run):
    model, config, checkpoint = run
    folded = write_deploy_file(build(), checkpoint)
    wanted = [codes for codes, _ in trained_integers(model)]
    for i, path in enumerate((checkpoint, folded)):
        options = ExportOptions(out=tmp_path / f'{i}.mlpackage', deployment_target='iOS17')
        result = run_export(config, path, options)
        assert result.compression.scheme == 'trained'
        stored = [held for held, *_ in stored_integers(result.path)]
        assert all(map(np.array_equal, wanted, stored))


def test_a_plain_classifier_of_mmpretrain_and_its_backbone_alone(tmp_path, run):
    model, _, checkpoint = run
    config = write_config(
        tmp_path / 'plain.py', tmp_path, model_cfg(kind='mmpretrain.ImageClassifier')
    )
    options = ExportOptions(out=tmp_path / 'a.mlpackage', deployment_target='iOS17')
    result = run_export(config, checkpoint, options)
    assert len(stored_integers(result.path)) == len(trained_integers(model))
    options = ExportOptions(
        out=tmp_path / 'b.mlpackage', deployment_target='iOS17', outputs='features'
    )
    result = run_export(config, checkpoint, options)
    assert result.verification.operations['quantize'] == len(trained_integers(model)) - 1


def test_a_rounded_input_is_scaled_before_it_is_rounded(tmp_path):
    result = export(quantized('w8a8'), tmp_path / 'a.mlpackage', 'w8a8')
    assert any(
        'what the first convolution reads is rounded' in note for note in result.job.prepared.notes
    )


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_traced_network_becomes_the_same(tmp_path, monkeypatch):
    model = quantized('w4a8', ALL_KINDS)
    first = export(model, tmp_path / 'a.mlpackage', 'w4a8')
    assert not any('torch.jit.trace' in note for note in first.notes)
    monkeypatch.setattr(front_end, '_FIRST_TORCH', (99, 0))
    second = export(model, tmp_path / 'b.mlpackage', 'w4a8')
    assert any('torch.jit.trace' in note for note in second.notes)
    stored = (stored_integers(made.path) for made in (first, second))
    assert all(
        np.array_equal(a, b) and np.array_equal(by_a, by_b)
        for (a, by_a, _), (b, by_b, _) in zip(*stored, strict=True)
    )


@pytest.mark.parametrize(
    ('form', 'precision', 'bound'),
    [('w8', 'fp32', 1e-4), ('w8a8', 'fp32', 1e-3), ('w8', 'fp16', 2e-2), ('w8a8', 'fp16', 5e-2)],
)
def test_a_step_may_go_either_way_where_activations_are_rounded(tmp_path, form, precision, bound):
    result = export(quantized(form), tmp_path / 'a.mlpackage', form, precision=precision)
    assert result.verification.bound.max_relative == bound
    assert ('rounded-activations' in result.verification.tolerance) == (form == 'w8a8')


@pytest.mark.parametrize('form', ['w4', 'w4a8'])
def test_steps_of_activations_may_decide_more_than_ties(tmp_path, form):
    result = export(quantized(form), tmp_path / 'a.mlpackage', form)
    assert result.compression.verdict.bound_name.endswith('-with-steps') == (form == 'w4a8')
