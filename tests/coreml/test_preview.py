"""Xcode's preview of image classifiers, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from export_kit import CLASSES
from format_kit import OTHER, convert, network

from mmpretrain_mobileone_ext.coreml import read_program
from mmpretrain_mobileone_ext.coreml.metadata import preview_metadata, write_metadata
from mmpretrain_mobileone_ext.coreml.program import quiet

# As in coremltools' guide "Xcode Model Preview Types".
WANTED = {'com.apple.coreml.model.preview.type': 'imageClassifier'}


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_image_classifiers(tmp_path, suffix):
    """The file has an image, a dictionary, a string, and its labels."""
    path = convert(network(), tmp_path / f'm{suffix}', extra_sizes=(OTHER,))
    found = preview_metadata(read_program(path))
    assert found == WANTED
    write_metadata(path, found, {}, 'an image')
    spec = quiet.coremltools().utils.load_spec(str(path))
    description = spec.description
    # The word itself, not JSON.
    assert dict(description.metadata.userDefined).items() >= WANTED.items()
    kinds = {f.name: f.type.WhichOneof('Type') for f in description.output}
    assert kinds == {'classLabel': 'stringType', 'classLabel_probs': 'dictionaryType'}
    assert description.predictedFeatureName == 'classLabel'
    assert read_program(path).classes == CLASSES


@pytest.mark.parametrize(
    'options',
    [dict(outputs='features'), dict(input='tensor'), dict(input='tensor', batch_sizes=(1, 2))],
)
def test_nothing_else(tmp_path, options):
    path = convert(network(), tmp_path / 'm.mlmodel', **options)
    assert preview_metadata(read_program(path)) == {}


def test_integer_labels_and_missing_ones(tiny_package):
    program = read_program(tiny_package)
    assert preview_metadata(program) == WANTED
    assert preview_metadata(replace(program, classes=None)) == {}
    label, scores = program.outputs
    numbers = (replace(label, kind='int64'), scores)
    assert preview_metadata(replace(program, outputs=numbers)) == WANTED
