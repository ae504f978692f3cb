"""Test pipelines as Swift steps, and run on arrays."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mmpretrain_mobileone_ext.coreml.swift.facts import swift_steps
from mmpretrain_mobileone_ext.coreml.swift.golden import prepare_photo
from mmpretrain_mobileone_ext.errors import ExportError

PHOTO = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


@pytest.mark.parametrize(
    ('step', 'swift'),
    [
        (dict(type='Resize', scale=32), '.resize(width: 32, height: 32, .openCV(.linear))'),
        (
            dict(type='mmcv.Resize', scale=(40, 32), interpolation='bicubic'),
            '.resize(width: 40, height: 32, .openCV(.cubic))',
        ),
        (
            dict(type='Resize', scale=[40, 32], keep_ratio=True, backend='pillow'),
            '.resizeInside(long: 40, short: 32, .pillow(.bilinear))',
        ),
        (
            dict(
                type='ResizeEdge',
                scale=256,
                edge='short',
                backend='pillow',
                interpolation='bicubic',
            ),
            '.resizeEdge(.short, pixels: 256, .pillow(.bicubic))',
        ),
        (
            dict(type='ResizeEdge', scale=9, edge='width', interpolation='nearest'),
            '.resizeEdge(.width, pixels: 9, .openCV(.nearest))',
        ),
        (dict(type='CenterCrop', crop_size=224), '.centerCrop(width: 224, height: 224)'),
        (dict(type='CenterCrop', crop_size=(20, 10)), '.centerCrop(width: 20, height: 10)'),
        (
            dict(type='EfficientNetCenterCrop', crop_size=224),
            '.efficientNetCrop(side: 224, padding: 32, .openCV(.cubic))',
        ),
    ],
)
def test_steps(step, swift):
    pipeline = [dict(type='LoadImageFromFile'), step, dict(type='PackInputs')]
    found = swift_steps(json.loads(json.dumps(pipeline)))
    assert (found.expressions, found.missing) == ((swift,), None)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Resize', scale=32, interpolation='area'),
        dict(type='Resize', scale=32, backend='cv2', interpolation='lanczos'),
        dict(type='Resize', scale_factor=0.5),
        dict(type='Resize', scale=32.5),
        dict(type='Resize', scale=(1, 2, 3)),
        dict(type='ResizeEdge', scale=32, edge='both'),
        dict(type='CenterCrop', crop_size=32, auto_pad=True),
        dict(type='torchvision/CenterCrop', size=32),
        dict(type='Pad', size=(32, 32)),
        dict(scale=3),
    ],
)
def test_other_steps_are_named_and_none_is_done(step):
    found = swift_steps([dict(type='CenterCrop', crop_size=8), step])
    assert found.expressions == ()
    for option, value in step.items():
        assert option == 'type' or f'{option}={value!r}' in found.missing
    assert str(step.get('type', 'a step')) in found.missing


def test_photos_pass_the_pipeline_itself():
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=24, backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=[20, 16]),
        dict(type='PackInputs'),
    ]
    large = Image.fromarray(PHOTO).resize((34, 24), Image.Resampling.BICUBIC)
    wanted = np.array(large)[4:20, 7:27]
    assert np.array_equal(prepare_photo(PHOTO, pipeline), wanted)
    resize = [dict(type='Resize', scale=[20, 16])]
    assert np.array_equal(prepare_photo(PHOTO[..., 0], resize), cv2.resize(PHOTO[..., 0], (20, 16)))


def test_a_step_that_fails_is_named():
    with pytest.raises(ExportError, match='step Resize of the test pipeline'):
        prepare_photo(PHOTO, [dict(type='Resize', scale=[0, 0])])
