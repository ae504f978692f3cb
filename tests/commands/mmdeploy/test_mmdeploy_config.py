"""Deploy configs: what they say, and every mistake in them in one line."""

import re

import pytest
from mmdeploy_kit import ALL, CORE_ML, CORE_ML_32, NCNN, ONNX, ONNX_BATCH
from mmengine.config import Config

from mmpretrain_mobileone_ext.commands.mmdeploy.deploy_config import read_deploy_config
from mmpretrain_mobileone_ext.errors import ExportError

#: Shapes as mmdeploy's own configs have them.
STOCK = """
ir_config = dict(
    type='torchscript', save_file='end2end.pt', input_names=['input'],
    output_names=['output'], input_shape=None)
codebase_config = dict(type='mmpretrain', task='Classification')
backend_config = dict(
    type='coreml', convert_to='mlprogram',
    common_config=dict(
        compute_precision='FLOAT32', minimum_deployment_target='iOS16',
        skip_model_load=False),
    model_inputs=[dict(input_shapes=dict(input=dict(
        min_shape=[1, 3, 224, 224], max_shape=[8, 3, 224, 224],
        default_shape=[1, 3, 224, 224])))])
"""


@pytest.mark.parametrize(
    ('path', 'backend', 'suffix', 'precision'),
    [
        (CORE_ML, 'coreml', '.mlpackage', 'fp16'),
        (CORE_ML_32, 'coreml', '.mlpackage', 'fp32'),
        (ONNX, 'onnxruntime', '.onnx', 'fp32'),
        (ONNX_BATCH, 'onnxruntime', '.onnx', 'fp32'),
        (NCNN, 'ncnn', '.ncnn', 'fp32'),
    ],
    ids=lambda v: getattr(v, 'stem', None),
)
def test_shipped_configs(path, backend, suffix, precision):
    found = read_deploy_config(path)
    assert (found.backend, found.suffix, found.precision, found.size) == (
        backend,
        suffix,
        precision,
        (224, 224),
    )
    assert found.name == path.name
    assert found.input_name == 'input'


def test_every_shipped_config_is_static_and_tested():
    assert set(ALL) == {CORE_ML, CORE_ML_32, ONNX, ONNX_BATCH, NCNN}
    for path in (CORE_ML, CORE_ML_32):
        shapes = Config.fromfile(str(path)).backend_config.model_inputs[0]
        wanted = [1, 3, 224, 224]
        assert shapes.input_shapes.input == dict(
            min_shape=wanted, max_shape=wanted, default_shape=wanted
        )


def test_another_shape_reaches_mmdeploys_keys_and_leaves_the_first_alone():
    first = read_deploy_config(CORE_ML)
    other = first.with_shape(1, (28, 30))
    assert (other.channels, other.size) == (1, (28, 30))
    inputs = other.cfg.backend_config.model_inputs[0]['input_shapes']['input']
    assert inputs == {k: [1, 1, 28, 30] for k in ('min_shape', 'max_shape', 'default_shape')}
    assert first.cfg.backend_config.model_inputs[0].input_shapes.input.default_shape == [
        1,
        3,
        224,
        224,
    ]
    onnx = read_deploy_config(ONNX).with_shape(3, (28, 30))
    assert onnx.cfg.ir_config.input_shape == [30, 28]  # (W, H)


def test_mmdeploys_own_configs_are_read(tmp_path):
    path = tmp_path / 'stock.py'
    path.write_text(STOCK)
    assert read_deploy_config(path).size == (224, 224)
    # Its ONNX configs say onnx_config, and leave the size open.
    path.write_text(
        "onnx_config = dict(type='onnx', input_names=['input'],\n"
        "    output_names=['output'], input_shape=None)\n"
        "codebase_config = dict(type='mmpretrain', task='Classification')\n"
        "backend_config = dict(type='onnxruntime')\n"
    )
    found = read_deploy_config(path)
    assert (found.size, found.channels) == (None, None)
    assert found.cfg.ir_config.type == 'onnx'


def test_neuralnetwork_becomes_a_mlmodel_of_fp32(tmp_path):
    path = tmp_path / 'nn.py'
    path.write_text(STOCK.replace('mlprogram', 'neuralnetwork').replace('FLOAT32', 'FLOAT16'))
    found = read_deploy_config(path)
    assert (found.suffix, found.precision) == ('.mlmodel', 'fp32')


BAD = [
    ("type='mmpretrain'", "type='mmdet'", "'mmdet'.*allowed: .*mmpretrain"),
    ("task='Classification'", "task='Segmentation'", 'Segmentation'),
    ("type='coreml'", "type='tensorrt'", "'tensorrt'; allowed: coreml, onnxruntime, ncnn"),
    (
        "type='coreml'",
        "type='onnxruntime'",
        "ir_config.type is 'torchscript'; onnxruntime needs 'onnx'",
    ),
    ("['input']", "['a', 'b']", 'exactly one'),
    ("['output']", 'None', 'output_names is None'),
    ('mlprogram', 'onnx', "convert_to is 'onnx'; allowed: mlprogram"),
    ('FLOAT32', 'INT8', "'INT8'; allowed: FLOAT16, FLOAT32"),
    ('[8, 3, 224, 224]', '[8, 3, -1, 224]', 'unbounded'),
    ('default_shape=[1', 'default_shape=[2', r'\[2, 3, 224, 224\]; one'),
    ('min_shape=[1, 3, 224, 224]', 'min_shape=[1, 3]', 'four whole numbers'),
    ('min_shape=[1, 3, 224, 224]', 'min_shape=[True, 3, 224, 224]', 'four whole numbers'),
    ('input=dict(\n', 'image=dict(\n', 'four whole numbers'),
    ('dict(input_shapes', 'dict(shapes', 'four whole numbers'),
    ('ir_config', 'this is no Python', 'not a readable deploy config'),
]


@pytest.mark.parametrize(('old', 'new', 'message'), BAD, ids=[b[1] for b in BAD])
def test_mistakes(tmp_path, old, new, message):
    path = tmp_path / 'bad.py'
    assert old in STOCK
    path.write_text(STOCK.replace(old, new, 1))
    with pytest.raises(ExportError) as caught:
        read_deploy_config(path)
    text = str(caught.value)
    assert '\n' not in text
    assert re.search(message, text), text
    assert 'bad.py' in text


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(ExportError, match=r'no\.py: no such deploy config'):
        read_deploy_config(tmp_path / 'no.py')


def test_halves_for_onnx_are_refused(tmp_path):
    path = tmp_path / 'half.py'
    path.write_text(f"_base_ = [{str(NCNN)!r}]\nbackend_config = dict(precision='INT8')\n")
    with pytest.raises(ExportError, match='allowed for ncnn: FP32'):
        read_deploy_config(path)


@pytest.mark.parametrize('size', ['224', [224], [224, '224'], [True, 1], [0, 8], [8.0, 8]], ids=str)
def test_sizes_for_onnx_are_two_whole_numbers(tmp_path, size):
    path = tmp_path / 'size.py'
    path.write_text(f'_base_ = [{str(NCNN)!r}]\nir_config = dict(input_shape={size!r})\n')
    with pytest.raises(ExportError, match=r'input_shape is .*\[W, H\]'):
        read_deploy_config(path)
