"""The input shapes that are asked for."""

from __future__ import annotations

import pytest
from mmpretrain.models.utils import ClsDataPreprocessor

from mmpretrain_mobileone_ext.coreml.convert import as_coremltools
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.options import MAX_SHAPES, ExportOptions
from mmpretrain_mobileone_ext.models.preprocessing import read_preprocessing

PRE = read_preprocessing(ClsDataPreprocessor(), 3, (32, 24), 'BGR')


def asked(tmp_path, **options):
    return ExportOptions(out=tmp_path / 'm.mlpackage', **options)


@pytest.mark.parametrize(
    ('options', 'shapes'),
    [
        ({}, [(1, 3, 32, 24)]),
        (
            dict(extra_sizes=[(32, 24), 64, (8, 16), 64]),
            [(1, 3, 32, 24), (1, 3, 64, 64), (1, 3, 8, 16)],
        ),
        (dict(batch_sizes=[4], input='tensor'), [(1, 3, 32, 24), (4, 3, 32, 24)]),
        (
            dict(extra_sizes=[8], batch_sizes=[2], input='tensor'),
            [(1, 3, 32, 24), (1, 3, 8, 8), (2, 3, 32, 24), (2, 3, 8, 8)],
        ),
    ],
)
def test_each_batch_size_with_each_size(tmp_path, options, shapes):
    assert asked(tmp_path, **options).input_shapes(PRE) == tuple(shapes)


def test_an_image_input_takes_one_image(tmp_path):
    with pytest.raises(
        ExportError,
        match=r'batch_sizes is \(1, 8\), but an '
        'image input takes one image .*--input tensor',
    ):
        asked(tmp_path, batch_sizes=[8]).input_shapes(PRE)


def test_as_many_shapes_as_core_ml_takes(tmp_path):
    batches = range(1, MAX_SHAPES + 1)
    options = dict(input='tensor', batch_sizes=batches)
    assert len(asked(tmp_path, **options).input_shapes(PRE)) == MAX_SHAPES
    with pytest.raises(
        ExportError, match='2 sizes x 128 batch sizes are 256 shapes; Core ML takes 128'
    ):
        asked(tmp_path, extra_sizes=[8], **options).input_shapes(PRE)


@pytest.mark.parametrize(
    ('options', 'labels'),
    [
        ({}, True),
        (dict(extra_sizes=[8]), True),
        (dict(outputs='features'), False),
        (dict(input='tensor', batch_sizes=[2]), False),
    ],
)
def test_who_says_labels(tmp_path, options, labels):
    assert asked(tmp_path, **options).is_classifier is labels


def test_the_first_shape_is_the_default():
    ct = quiet.coremltools()
    assert as_coremltools(ct, ((1, 3, 8, 8),)) == (1, 3, 8, 8)
    shapes = ((1, 3, 8, 8), (1, 3, 4, 4), (2, 3, 8, 8))
    flexible = as_coremltools(ct, shapes)
    assert [tuple(s.shape) for s in flexible.shapes] == list(shapes)
    assert tuple(flexible.default) == shapes[0]
