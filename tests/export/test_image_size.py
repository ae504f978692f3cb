"""``image_size`` with test splits of several data sets and PIL pipelines."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.data import choose_images, open_split
from mmpretrain_mobileone_ext.models.preprocessing import resized

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
TO_PIL = dict(type='NumpyToPIL', to_rgb=True)
RESIZE = dict(type='torchvision/Resize', size=40)
CROP = dict(type='torchvision/CenterCrop', size=[32])
TO_NUMPY = dict(type='PILToNumpy', to_bgr=True)
TENSOR = dict(type='torchvision/PILToTensor')


@pytest.fixture
def root(tmp_path):
    """Three images of different sizes in each of two folders of one class."""
    rng = np.random.default_rng(3)
    for part in 'ab':
        (tmp_path / part / 'cat').mkdir(parents=True)
        for i, size in enumerate([(50, 41), (64, 80), (48, 48)]):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
                tmp_path / part / 'cat' / f'{i}.png'
            )
    return tmp_path


def part(root, name, *steps):
    return dict(
        type='CustomDataset', data_root=str(root / name), with_label=True, pipeline=[*steps, PACK]
    )


def split(dataset, size):
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    before = copy.deepcopy(cfg.to_dict())
    found = open_split(cfg, size, read=True)
    assert cfg.to_dict() == before
    return found


def shapes(found, size):
    images = choose_images(found, 'test', (1, 3, *size))
    return [tuple(chunk.shape) for chunk, _ in images.chunks()]


@pytest.mark.parametrize(
    'wrap',
    [
        lambda parts: dict(type='ConcatDataset', datasets=parts),
        lambda parts: dict(
            type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=tuple(parts))
        ),
    ],
)
def test_each_of_several_data_sets_gets_the_size(root, wrap):
    parts = [
        part(root, 'a', LOAD, dict(type='Resize', scale=32)),
        part(root, 'b', LOAD, dict(type='Resize', scale=(24, 24))),
    ]
    found = split(wrap(parts), (28, 36))
    assert shapes(found, (28, 36)) == [(6, 3, 28, 36)]
    assert found.data_order == 'BGR'


def test_a_part_that_normalizes_is_refused_wherever_it_is(root):
    parts = [part(root, 'a', LOAD), part(root, 'b', LOAD, dict(type='Normalize', mean=0, std=1))]
    with pytest.raises(ExportError, match='Normalize'):
        split(dict(type='ConcatDataset', datasets=parts), (28, 28))


def test_parts_of_different_channel_order_are_refused(root):
    parts = [part(root, 'a', LOAD), part(root, 'b', LOAD, TO_PIL)]
    with pytest.raises(ExportError, match=r'BGR.*RGB'):
        split(dict(type='ConcatDataset', datasets=parts), (28, 28))


@pytest.mark.parametrize(
    ('steps', 'order'),
    [
        ([TO_PIL, RESIZE, CROP], 'RGB'),
        ([TO_PIL, RESIZE, CROP, TENSOR], 'RGB'),
        ([TO_PIL, RESIZE, CROP, TO_NUMPY], 'BGR'),
        ([RESIZE_CV := dict(type='Resize', scale=40)], 'BGR'),
    ],
)
@pytest.mark.parametrize('size', [(28, 36), (32, 32)])
def test_pipelines_of_torchvision_are_resized_at_their_end(root, steps, order, size):
    found = split(part(root, 'a', LOAD, *steps), size)
    assert shapes(found, size) == [(3, 3, *size)]
    assert found.size == size
    assert found.data_order == order


def test_what_is_resized_are_the_cropped_pixels(root):
    """Against PIL, by hand."""
    found = split(part(root, 'a', LOAD, TO_PIL, RESIZE, CROP), (28, 36))
    image = Image.open(root / 'a/cat/2.png').convert('RGB')
    image = image.resize((40, 40), Image.BILINEAR).crop((4, 4, 36, 36))
    expected = np.asarray(image.resize((36, 28), Image.BILINEAR))
    got = found.dataset[2]['inputs']
    assert torch.equal(got, torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_a_pipeline_of_that_size_is_left_alone():
    steps = [LOAD, TO_PIL, RESIZE, CROP, PACK]
    assert resized(steps, (32, 32)) == steps
    assert resized(steps, None) == steps
