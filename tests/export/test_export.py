"""Exports against torch, written out independently."""

import copy
import json

import numpy as np
import pytest
import torch
from export_kit import (
    CLASSES,
    HEAD,
    MEAN,
    STD,
    TINY,
    before_first_conv,
    build,
    files,
    model_cfg,
    oracle,
    photos,
    relative,
    rgb,
    save,
    write_config,
)
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.coreml import export_coreml, load_program
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.utils.files import file_sha256

UNITS = 1 + 2 * 2  # stem, then depthwise and pointwise of two blocks


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """A config, data and a branch checkpoint, exported in fp16."""
    root = tmp_path_factory.mktemp('export')
    data = photos(root / 'data')
    config = write_config(root / 'tiny.py', data)
    model = build()
    checkpoint = save(model, root / 'branches.pth')
    options = ExportOptions(out=root / 'tiny.mlpackage', verify_data='test')
    result = run_export(config, checkpoint, options)
    return dict(
        root=root, data=data, config=config, model=model, checkpoint=checkpoint, result=result
    )


def probabilities(program, image):
    """(K,) of one image, in class order."""
    found = program.predict({program.input_name: image})
    return [found['classLabel_probs'][name] for name in program.classes]


def test_predicts_what_torch_predicts(case):
    program = load_program(case['result'].path)
    paths = files(case['data'])
    wanted = oracle(case['model'], [rgb(p) for p in paths])
    found = [probabilities(program, Image.open(p)) for p in paths]
    assert relative(found, wanted) < 5e-3
    labels = [program.predict({'image': Image.open(p)})['classLabel'] for p in paths]
    assert labels == [CLASSES[i] for i in wanted.argmax(1)]
    other = build(seed=1)
    assert relative(found, oracle(other, [rgb(p) for p in paths])) > 0.05


def test_graph_is_the_folded_network(case):
    program = load_program(case['result'].path).program
    counts = program.count_operations()
    assert counts['conv'] == UNITS
    assert 'mul' not in counts
    assert sorted(before_first_conv(program)) == ['add', 'cast']
    assert (program.inputs[0].name, program.inputs[0].kind) == ('image', 'image')
    assert [f.name for f in program.outputs] == ['classLabel', 'classLabel_probs']


def test_result_has_figures_and_accuracy(case):
    result = case['result']
    found = result.verification
    assert found.parity.num_samples == 12
    assert found.parity.relative < 5e-3
    wanted = oracle(case['model'], [rgb(p) for p in files(case['data'])])
    truth = torch.arange(3).repeat_interleave(4)
    accuracy = float((wanted.argmax(1) == truth).double().mean())
    assert found.top1_reference == pytest.approx(accuracy)
    assert found.top1_candidate == pytest.approx(accuracy)
    assert result.size_bytes == sum(f.stat().st_size for f in result.path.rglob('*') if f.is_file())
    assert (result.system, result.job.labels.names) == ('iOS16', CLASSES)


def test_metadata_tells_where_it_comes_from(case):
    meta = load_program(case['result'].path).program.metadata
    assert json.loads(meta['classes']) == list(CLASSES)
    assert meta['source_sha256'] == file_sha256(case['checkpoint'])
    assert (meta['source_checkpoint'], meta['config']) == ('branches.pth', 'tiny.py')
    assert (meta['precision'], meta['compute_units'], meta['deployment_target']) == (
        'fp16',
        'ALL',
        'iOS16',
    )
    assert 'resize to 32 x 32' in meta['preprocessing']
    assert [s['type'] for s in json.loads(meta['pipeline'])] == [
        'LoadImageFromFile',
        'Resize',
        'PackInputs',
    ]
    assert json.loads(meta['mean']) == list(MEAN)
    assert json.loads(meta['std']) == list(STD)
    parity = json.loads(meta['parity'])
    assert parity['tolerance'] == 'export-fp16'
    assert parity['relative'] == case['result'].verification.parity.relative
    assert json.loads(meta['top1'])['coreml'] is not None
    assert {'coremltools', 'torch', 'mmpretrain'} <= set(json.loads(meta['versions']))
    assert all(meta[key] for key in ('author', 'license', 'version'))


def test_other_users_can_read_it(case):
    (case['root'] / 'plain').write_text('')
    plain = (case['root'] / 'plain').stat().st_mode
    modes = {p.stat().st_mode for p in case['result'].path.rglob('*') if p.is_file()}
    assert modes == {plain}


def test_deploy_checkpoint_gives_the_same_numbers(case, tmp_path):
    folded = switch_to_deploy(case['model'], inplace=False)
    deploy = save(folded, tmp_path / 'deploy.pth')
    batch = torch.randint(0, 256, (4, 3, 32, 32)).float()
    found = []
    for name, checkpoint in (('a', case['checkpoint']), ('b', deploy)):
        out = export_coreml(
            case['config'],
            checkpoint,
            tmp_path / f'{name}.mlpackage',
            precision='fp32',
            verify_data=2,
        )
        found.append(load_program(out).predict_batch({'image': batch}))
    first, second = (f['classLabel_probs'] for f in found)
    assert torch.equal(first, second)


def test_model_is_not_changed(tmp_path):
    model = build().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    out = export_coreml(model, out=tmp_path / 'm.mlpackage', image_size=32, classes=CLASSES)
    assert torch.equal(state, torch.random.get_rng_state())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert model.training
    assert not any(m.deploy for m in model.modules() if isinstance(m, MobileOneBlock))
    assert load_program(out).classes == CLASSES


@pytest.mark.parametrize('precision', ['fp16', pytest.param('fp32', marks=pytest.mark.slow)])
def test_tensor_takes_the_same_pixels(case, tmp_path, precision):
    out = export_coreml(
        case['config'],
        case['checkpoint'],
        tmp_path / 't.mlpackage',
        input='tensor',
        precision=precision,
        verify_data='none',
    )
    program = load_program(out)
    feature = program.program.inputs[0]
    assert (feature.kind, feature.dtype, feature.shape) == ('tensor', 'fp32', (1, 3, 32, 32))
    assert 'mul' not in program.program.count_operations()
    image = rgb(files(case['data'])[0])
    pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None]
    found = probabilities(program, pixels)
    bound = 5e-3 if precision == 'fp16' else 1e-5
    assert relative([found], oracle(case['model'], [image])) < bound


@pytest.mark.parametrize('suffix', ['.mlpackage', pytest.param('.mlmodel', marks=pytest.mark.slow)])
@pytest.mark.parametrize(('to_rgb', 'layout'), [(True, 'RGB'), (False, 'BGR')])
def test_channel_order(tmp_path, to_rgb, layout, suffix):
    data = photos(tmp_path / 'data', count=1)
    cfg = model_cfg(preprocessor=dict(to_rgb=to_rgb))
    config = write_config(tmp_path / 'c.py', data, cfg)
    model = build(cfg)
    out = export_coreml(
        config,
        save(model, tmp_path / 'c.pth'),
        tmp_path / f'c{suffix}',
        precision='fp32',
        verify_data='test',
    )
    program = load_program(out)
    assert program.color_layout == layout
    paths = files(data)
    order = slice(None) if to_rgb else slice(None, None, -1)
    wanted = oracle(model, [rgb(p)[..., order] for p in paths])
    found = [probabilities(program, Image.open(p)) for p in paths]
    assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize('suffix', ['.mlpackage', pytest.param('.mlmodel', marks=pytest.mark.slow)])
def test_gray(tmp_path, suffix):
    data = photos(tmp_path / 'data', count=1, gray=True)
    cfg = model_cfg(dict(TINY, in_channels=1), preprocessor=dict(mean=[90.0], std=[70.0]))
    steps = [dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='PackInputs')]
    config = write_config(tmp_path / 'c.py', data, cfg, steps)
    model = build(cfg)
    out = export_coreml(
        config, save(model, tmp_path / 'c.pth'), tmp_path / f'c{suffix}', precision='fp32'
    )
    program = load_program(out)
    assert program.color_layout == 'GRAYSCALE'
    assert program.image_size == (32, 32)  # from a sample: no step says it
    images = [np.array(Image.open(p))[..., None] for p in files(data)]
    wanted = oracle(model, images, [90.0], [70.0])
    found = [probabilities(program, Image.open(p)) for p in files(data)]
    assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize('precision', ['fp16', pytest.param('fp32', marks=pytest.mark.slow)])
def test_mlmodel(case, tmp_path, precision):
    options = ExportOptions(out=tmp_path / 'm.mlmodel', precision=precision, verify_data='test')
    result = run_export(case['config'], case['checkpoint'], options)
    program = load_program(result.path)
    assert program.program.format == 'neuralnetwork'
    assert [f.name for f in program.program.inputs] == ['image']
    assert {f.name for f in program.program.outputs} == {'classLabel', 'classLabel_probs'}
    assert program.program.count_operations()['conv'] == UNITS
    # The scaler of the format always has a factor; ours is 1.
    scales = [op for op in program.program.operations if op.type == 'mul']
    assert all(np.all(np.asarray(op.inputs['y']) == 1) for op in scales)
    paths = files(case['data'])
    wanted = oracle(case['model'], [rgb(p) for p in paths])
    found = [probabilities(program, Image.open(p)) for p in paths]
    assert relative(found, wanted) < (5e-3 if precision == 'fp16' else 1e-5)


@pytest.mark.slow
def test_half_precision_mlmodel_is_half_the_size(case, tmp_path):
    sizes = [
        run_export(
            case['config'],
            case['checkpoint'],
            ExportOptions(out=tmp_path / f'{p}.mlmodel', precision=p, verify_data='none'),
        ).size_bytes
        for p in ('fp16', 'fp32')
    ]
    assert sizes[0] < 0.75 * sizes[1]


def test_reflect_padding_keeps_the_scale_in_the_graph(tmp_path):
    model = build()
    for block in model.modules():
        if isinstance(block, MobileOneBlock):
            switch_to_deploy(block)
    stem = model.backbone.stage0.branch_reparam
    stem.padding_mode = 'reflect'
    stem._reversed_padding_repeated_twice = [1, 1, 1, 1]
    options = ExportOptions(
        out=tmp_path / 'm.mlpackage', precision='fp32', image_size=32, classes=CLASSES
    )
    result = run_export(model, None, options)
    assert 'mul in the graph' in result.job.prepared.normalization
    assert "pads with 'reflect'" in result.notes[0]
    program = load_program(result.path)
    assert 'mul' in before_first_conv(program.program)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = probabilities(program, image)
    assert relative([found], oracle(model, [image])) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ('precision', 'channels', 'backbone'),
    [
        ('fp16', 1280, dict(type='MobileNetV2', widen_factor=0.25)),
        ('fp16', 128, dict(type='ResNet', depth=18, base_channels=16, stem_channels=16)),
        # Random weights of these grow beyond fp16.
        ('fp32', 1024, dict(type='mmpretrain.MobileOne', arch='s0')),
        ('fp32', 1280, dict(type='RepVGG', arch='A0')),
    ],
    ids=lambda v: v.get('type') if isinstance(v, dict) else None,
)
def test_other_backbones(tmp_path, precision, channels, backbone):
    data = photos(tmp_path / 'data', count=1)
    head = dict(HEAD, in_channels=channels)
    cfg = model_cfg(backbone, head, 'ImageClassifier')
    config = write_config(tmp_path / 'c.py', data, cfg)
    model = build(cfg)
    options = ExportOptions(out=tmp_path / 'c.mlpackage', verify_data='test', precision=precision)
    result = run_export(config, save(model, tmp_path / 'c.pth'), options)
    # fp32 has its own note; nothing else could not be done.
    assert all('Neural Engine' in note for note in result.notes)
    assert bool(result.notes) == (precision == 'fp32')
    program = load_program(result.path)
    counts = program.program.count_operations()
    assert 'batch_norm' not in counts
    assert 'mul' not in before_first_conv(program.program)
    wanted = oracle(model, [rgb(p) for p in files(data)])
    found = [probabilities(program, Image.open(p)) for p in files(data)]
    assert relative(found, wanted) < 3e-2


def test_config_object_options_and_size(case, tmp_path):
    config = Config.fromfile(case['config'])
    before = copy.deepcopy(config._cfg_dict)
    out = export_coreml(
        config,
        case['checkpoint'],
        tmp_path / 'c.mlpackage',
        image_size=(48, 40),
        verify_data=5,
        precision='fp32',
        deployment_target='iOS17',
        compute_units='CPU_AND_NE',
        author='A. N. Author',
        license='MIT',
        cfg_options={'model.data_preprocessor.to_rgb': False},
    )
    assert config._cfg_dict == before
    program = load_program(out)
    assert (program.image_size, program.color_layout) == ((48, 40), 'BGR')
    meta = program.program.metadata
    assert (meta['author'], meta['license'], meta['deployment_target'], meta['compute_units']) == (
        'A. N. Author',
        'MIT',
        'iOS17',
        'CPU_AND_NE',
    )
    assert json.loads(meta['parity'])['num_samples'] == 5
    assert json.loads(meta['pipeline'])[2] == dict(type='Resize', scale=[40, 48])


def test_classes_from_file_data_set_and_nowhere(case, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('eins\nzwei\ndrei\n', encoding='utf-8')
    bare = save(case['model'], tmp_path / 'bare.pth', classes=None)
    found = {}
    for key, kwargs in (
        ('file', dict(classes=names, verify_data='none')),
        ('data set', dict(verify_data=1)),
        ('nowhere', dict(verify_data='none')),
    ):
        options = ExportOptions(out=tmp_path / f'{key}.mlpackage', **kwargs)
        result = run_export(case['config'], bare, options)
        found[key] = (load_program(result.path).classes, dict(result.rows())['classes'])
    assert found == {
        'file': (('eins', 'zwei', 'drei'), '3 (names.txt)'),
        'data set': (CLASSES, '3 (data set)'),
        'nowhere': (('0', '1', '2'), '3 (unknown: numbered)'),
    }


def test_se_activations_and_no_normalization(tmp_path):
    cfg = model_cfg(dict(TINY, se_cfg=dict(ratio=4), act_cfg=dict(type='HSwish')))
    cfg['data_preprocessor'] = dict(type='ClsDataPreprocessor', to_rgb=True)
    model = build(cfg)
    for m in model.backbone.stage0.modules():  # pixels come in raw
        if isinstance(m, torch.nn.Conv2d) and m.in_channels == 3:
            m.weight.data /= 64
    options = ExportOptions(
        out=tmp_path / 'm.mlpackage', image_size=32, classes=CLASSES, precision='fp32'
    )
    result = run_export(model, None, options)
    assert result.job.prepared.normalization == 'none'
    program = load_program(result.path)
    assert set(before_first_conv(program.program)) <= {'cast'}
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = probabilities(program, image)
    wanted = oracle(model, [image], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert relative([found], wanted) < 1e-5
