"""What Xcode shows of an exported file, read from Apple's protobuf alone."""

import json
import re

import numpy as np
import pytest
from export_kit import TINY, build, files, model_cfg, oracle, photos, rgb, save, write_config
from scipy.stats import binomtest

from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.coreml.metadata import classes_in_words
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.utils.files import file_sha256

CLASSES = ('Schürzen', '日本', 'it\'s "a"')


def description(path):
    """The model's description, and its file's bytes."""
    file = path if path.is_file() else next(path.rglob('*.mlmodel'))
    spec = quiet.coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    return spec.description, file.read_bytes()


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp('metadata')
    data = photos(root / 'data')
    model = build()
    checkpoint = save(model, root / 'c.pth', classes=CLASSES)
    named = f"test_dataloader['dataset']['metainfo'] = dict(classes={CLASSES!r})"
    config = write_config(root / 'c.py', data, extra=named)
    return dict(data=data, model=model, config=config, checkpoint=checkpoint)


def exported(case, out, **options):
    return description(export_coreml(case['config'], case['checkpoint'], out, **options))


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_defaults_say_what_is_known(case, tmp_path, suffix):
    found, content = exported(case, tmp_path / f'm{suffix}', verify_data='test')
    meta = found.metadata
    assert meta.versionString == f'weights {file_sha256(case["checkpoint"])[:12]}'
    assert meta.license == 'not stated'
    assert 'mmpretrain_mobileone_ext' in meta.author
    text = meta.shortDescription
    assert all(name in text for name in CLASSES)
    assert '32 x 32 pixels (H x W)' in text
    wanted = oracle(case['model'], [rgb(p) for p in files(case['data'])])
    hits = int((wanted.argmax(1).numpy() == np.arange(3).repeat(4)).sum())
    ends = binomtest(hits, 12).proportion_ci(0.95, method='wilson')
    said = re.search(r'accuracy ([\d.]+) % \(95 % interval ([\d.]+) to ([\d.]+)\) on (.*?),', text)
    assert [float(v) for v in said.groups()[:3]] == pytest.approx(
        [100 * hits / 12, 100 * ends.low, 100 * ends.high], abs=0.05001
    )
    assert '12 images' in said[4]
    # As people read it in the file, too.
    assert 'Schürzen'.encode() in content.replace(text.encode(), b'')
    assert json.loads(meta.userDefined['classes']) == list(CLASSES)
    assert '\\u' not in meta.userDefined['classes']


def test_both_outputs_are_described(case, tmp_path):
    found, _ = exported(case, tmp_path / 'm.mlpackage', verify_data=1)
    said = {feature.name: feature.shortDescription for feature in found.output}
    assert set(said) == {'classLabel', 'classLabel_probs'}
    assert '3 classes' in said['classLabel']
    assert 'Probability' in said['classLabel_probs']
    several, _ = exported(
        case, tmp_path / 's.mlpackage', verify_data=1, input='tensor', batch_sizes=[1, 2]
    )
    assert ['(N, classes)' in f.shortDescription for f in several.output] == [True]


def test_features_are_described(case, tmp_path):
    found, _ = exported(case, tmp_path / 'f.mlpackage', verify_data=1, outputs='features')
    assert all('Feature map' in f.shortDescription for f in found.output)
    assert 'accuracy' not in found.metadata.shortDescription


def test_noise_has_no_accuracy(case, tmp_path):
    found, _ = exported(case, tmp_path / 'm.mlpackage', verify_data='none')
    assert 'accuracy' not in found.metadata.shortDescription


def test_a_module_has_no_version(tmp_path):
    found, _ = description(
        export_coreml(build(model_cfg(TINY)), None, tmp_path / 'm.mlpackage', image_size=32)
    )
    assert found.metadata.versionString == 'not stated'


def test_what_is_asked_for_is_written(case, tmp_path):
    asked = dict(author='J. Müller', license='MIT', model_version='2.1', description='Wäsche, 3')
    found, _ = exported(case, tmp_path / 'm.mlpackage', verify_data=1, **asked)
    meta = found.metadata
    assert asked == dict(
        author=meta.author,
        license=meta.license,
        model_version=meta.versionString,
        description=meta.shortDescription,
    )


def test_of_many_classes_the_rest_is_counted():
    names = [f'c{i}' for i in range(12)]
    assert classes_in_words(names).endswith('c9 and 2 more')
    assert classes_in_words(names[:10]).endswith('c9')
