"""The parts of an export that can be asked without converting anything."""

import copy

import pytest
import torch
from export_kit import CLASSES, build, model_cfg, save, write_config
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import nn

from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.coreml.metadata import in_words
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.data import TestSplit, choose_images
from mmpretrain_mobileone_ext.export.network import prepare
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.source import choose_labels
from mmpretrain_mobileone_ext.models.preprocessing import (
    data_order,
    pipeline_size,
    read_preprocessing,
)

LOAD = dict(type='LoadImageFromFile')
PACK = dict(type='PackInputs')


@pytest.mark.parametrize(
    ('steps', 'size'),
    [
        ([LOAD, dict(type='Resize', scale=(48, 32)), PACK], (32, 48)),
        (
            [
                LOAD,
                dict(type='ResizeEdge', scale=256, edge='short'),
                dict(type='CenterCrop', crop_size=224),
                PACK,
            ],
            (224, 224),
        ),
        ([LOAD, dict(type='mmpretrain.CenterCrop', crop_size=(30, 20))], (20, 30)),
        ([LOAD, dict(type='EfficientNetCenterCrop', crop_size=240)], (240, 240)),
        ([LOAD, dict(type='ResizeEdge', scale=64), PACK], None),
        ([LOAD, dict(type='ResizeEdge', scale=64), dict(type='CenterCrop', crop_size=72)], None),
        (
            [
                LOAD,
                dict(type='ResizeEdge', scale=64),
                dict(type='CenterCrop', crop_size=72, auto_pad=True),
            ],
            (72, 72),
        ),
        (
            [
                LOAD,
                dict(type='ResizeEdge', scale=64, edge='long'),
                dict(type='CenterCrop', crop_size=32),
            ],
            None,
        ),
        ([LOAD, dict(type='ResizeEdge', scale=64), dict(type='Resize', scale=32)], (32, 32)),
        (
            [LOAD, dict(type='Resize', scale=(20, 48)), dict(type='CenterCrop', crop_size=32)],
            (32, 20),
        ),
        ([LOAD, dict(type='torchvision/Resize', size=20)], None),
        (
            [
                LOAD,
                dict(type='torchvision/Resize', size=20),
                dict(type='torchvision/CenterCrop', size=16),
            ],
            (16, 16),
        ),
        ([LOAD, dict(type='torchvision/Resize', size=(20, 30))], (20, 30)),
        ([LOAD, dict(type='Resize', scale=(48, 32), keep_ratio=True)], None),
        ([PACK], None),
    ],
)
def test_size_of_a_pipeline(steps, size):
    assert pipeline_size(steps) == size


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([LOAD, dict(type='ResizeEdge', scale=64), PACK], 'after ResizeEdge, '),
        ([LOAD, dict(type='Resize', scale=(9, 8), keep_ratio=True)], 'after Resize, '),
        (
            [LOAD, dict(type='ResizeEdge', scale=64), dict(type='CenterCrop', crop_size=72)],
            'after CenterCrop, ',
        ),
        ([LOAD], 'the image size is not in'),
    ],
)
def test_why_a_pipeline_states_no_size(steps, words):
    assert TestSplit(steps=tuple(steps)).no_size.startswith(words)


@pytest.mark.parametrize(
    ('step', 'words'),
    [
        (dict(type='ResizeEdge', scale=40), r'after ResizeEdge, .* it varies'),
        (dict(type='Resize', scale=40, keep_ratio=True), r'after Resize, .* it'),
    ],
)
def test_no_data_and_no_size(tmp_path, step, words):
    """A square of the edge's length would be a guess."""
    config = write_config(tmp_path / 'c.py', tmp_path, pipeline=[LOAD, step, PACK])
    checkpoint = save(build(), tmp_path / 'c.pth')
    with pytest.raises(ExportError, match=f'{words}.*--image-size'):
        export_coreml(config, checkpoint, out=tmp_path / 'm.mlpackage', verify_data='none')
    assert not (tmp_path / 'm.mlpackage').exists()


@pytest.mark.parametrize(
    ('steps', 'dataset', 'order'),
    [
        ([LOAD, PACK], 'ImageNet', 'BGR'),
        ([dict(LOAD, imdecode_backend='pillow'), PACK], 'ImageNet', 'BGR'),
        ([dict(LOAD, channel_order='rgb'), PACK], 'ImageNet', 'RGB'),
        ([LOAD, dict(type='NumpyToPIL', to_rgb=True), PACK], 'ImageNet', 'RGB'),
        (
            [
                LOAD,
                dict(type='NumpyToPIL', to_rgb=True),
                dict(type='PILToNumpy', to_bgr=True),
                PACK,
            ],
            'ImageNet',
            'BGR',
        ),
        ([PACK], 'CIFAR10', 'RGB'),
        ([PACK], 'SomethingElse', None),
    ],
)
def test_channel_order_of_a_pipeline(steps, dataset, order):
    assert data_order(steps, dataset) == order


@pytest.mark.parametrize(
    ('channels', 'to_rgb', 'order', 'layout'),
    [
        (3, True, 'BGR', 'RGB'),
        (3, False, 'BGR', 'BGR'),
        (3, True, 'RGB', 'BGR'),
        (3, False, 'RGB', 'RGB'),
        (1, True, None, 'GRAYSCALE'),
        (4, True, 'BGR', None),
        (3, True, None, None),
    ],
)
def test_layout(channels, to_rgb, order, layout):
    module = ClsDataPreprocessor([1.0], [2.0], to_rgb=to_rgb)
    pre = read_preprocessing(module, channels, (8, 8), order)
    assert (pre.layout, pre.flips) == (layout, to_rgb and channels == 3)
    assert pre.std == (2.0,) * channels


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        (ClsDataPreprocessor([1.0] * 3, [0.0, 1.0, 1.0]), 'must be positive'),
        (ClsDataPreprocessor([1.0] * 2, [1.0] * 2), '2 values of mean'),
        (ClsDataPreprocessor(pad_size_divisor=16), 'pad_size_divisor=16'),
        (nn.Identity(), 'Identity'),
    ],
)
def test_what_cannot_be_baked_in(module, message):
    with pytest.raises(ExportError, match=message):
        read_preprocessing(module, 3, (24, 32), 'BGR')


def test_padding_that_pads_nothing_is_fine():
    module = ClsDataPreprocessor(pad_size_divisor=16)
    assert read_preprocessing(module, 3, (32, 48), 'BGR').size == (32, 48)


def preprocessing(channels=3):
    mean, std = [120.0, 110.0, 100.0, 90.0], [60.0, 50.0, 40.0, 30.0]
    module = ClsDataPreprocessor(mean[:channels], std[:channels])
    return read_preprocessing(module, channels, (32, 32), 'BGR')


class Grouped(nn.Module):
    """Pixels (N, 4, H, W) to three scores; two groups, a strange start."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.last = nn.Linear(6, 3)

    def forward(self, x, mode='tensor'):
        return self.last(self.first(x).relu().mean((2, 3)))


def test_std_folds_into_groups_on_a_copy():
    torch.manual_seed(0)
    net = Grouped(nn.Conv2d(4, 6, 3, padding=1, groups=2)).eval()
    before = copy.deepcopy(net.state_dict())
    prepared = prepare(net, preprocessing(4))
    assert (prepared.scale, prepared.notes) == (None, ())
    ratio = net.first.weight / prepared.net.first.weight
    assert torch.allclose(ratio[:3, :, 0, 0], torch.tensor([60.0, 50.0]))
    assert torch.allclose(ratio[3:, :, 0, 0], torch.tensor([40.0, 30.0]))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ('first', 'reason'),
    [
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode='circular'), 'circular'),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)), 'BatchNorm2d'),
    ],
)
def test_std_stays_where_it_has_no_exact_fold(first, reason):
    prepared = prepare(Grouped(first).eval(), preprocessing(4))
    assert prepared.scale == (1 / 60, 1 / 50, 1 / 40, 1 / 30)
    assert reason in prepared.notes[0]


class PassedOn(Grouped):
    """As in patch embeddings: a padding that pads nothing comes first."""

    def __init__(self):
        super().__init__(nn.Conv2d(4, 6, 8, 8))
        self.padding = nn.Identity()

    def forward(self, x, mode='tensor'):
        return super().forward(self.padding(x))


def test_std_folds_behind_a_module_that_passes_the_input_on():
    assert prepare(PassedOn().eval(), preprocessing(4)).scale is None


class Leaky(Grouped):
    """Its input also bypasses the convolution, unseen by any hook."""

    def forward(self, x, mode='tensor'):
        return super().forward(x) + x.mean((1, 2, 3))[:, None]


def test_the_proof_catches_what_the_hooks_miss():
    prepared = prepare(Leaky(nn.Conv2d(4, 6, 3)).eval(), preprocessing(4))
    assert prepared.scale is not None
    assert 'relative error' in prepared.notes[0]


def test_branches_without_an_exact_fold_are_kept():
    backbone = dict(model_cfg()['backbone'], norm_cfg=dict(type='GN', num_groups=1))
    prepared = prepare(build(model_cfg(backbone)), preprocessing())
    assert 'branches are kept' in prepared.notes[0]
    assert '1/std is a mul' in prepared.notes[1]


def test_labels():
    known = [('checkpoint', None), ('data set', ['crane', 'x', 'crane'])]
    assert choose_labels(None, known, 3).names == ('crane (0)', 'x', 'crane (2)')
    assert choose_labels(None, [], 2).names == ('0', '1')
    assert choose_labels(CLASSES, known, 3).names == CLASSES
    with pytest.raises(ExportError, match='label 2 is 7'):
        choose_labels(['a', 7], known, 2)


def test_words_for_the_phone():
    steps = [
        LOAD,
        dict(type='ResizeEdge', scale=256, edge='short', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=224),
        dict(type='Strange', level=3),
        PACK,
    ]
    assert in_words(steps, (224, 224)) == (
        '1. resize the short edge to 256 pixels, keeping the aspect ratio (bicubic); 2. crop the '
        'central 224 x 224 pixels; 3. Strange(level=3); 4. give 224 x 224 (H x W) pixels, 0 to 255'
    )


@pytest.mark.parametrize(
    ('given', 'size'),
    [(None, None), (32, (32, 32)), ('32', (32, 32)), ((8, 4), (8, 4)), (['8', '4'], (8, 4))],
)
def test_image_sizes(tmp_path, given, size):
    options = ExportOptions(out=tmp_path / 'm.mlmodel', image_size=given)
    assert options.image_size == size


@pytest.mark.parametrize('given', [True, 1.5, [], 'x', (1, 2, 3), -1, 10**6])
def test_bad_image_sizes(tmp_path, given):
    with pytest.raises(ExportError, match='image_size is'):
        ExportOptions(out=tmp_path / 'm.mlmodel', image_size=given)


@pytest.mark.parametrize('given', [True, 1.5, 'all', 0, -1])
def test_bad_verify_data(tmp_path, given):
    with pytest.raises(ExportError, match='verify_data is'):
        ExportOptions(out=tmp_path / 'm.mlmodel', verify_data=given)


def test_noise_is_the_same_every_time_and_varied():
    images = [choose_images(TestSplit(), 'none', (1, 3, 20, 30)) for _ in range(2)]
    first, second = (next(i.chunks())[0] for i in images)
    assert torch.equal(first, second)
    assert first.shape == (len(images[0]), 3, 20, 30)
    assert (first.dtype, int(first.min()), int(first.max())) == (torch.uint8, 0, 255)
    contrast = first.float().mean((2, 3)).std(0)
    assert float(contrast.min()) > 10


@pytest.mark.parametrize(
    ('asked', 'indices'), [('test', range(10)), (3, (0, 3, 6)), (10, range(10)), (99, range(10))]
)
def test_images_are_spread_evenly(asked, indices):
    split = TestSplit(dataset=range(10))
    images = choose_images(split, asked, (1, 3, 8, 8))
    assert images.indices == tuple(indices)
    assert len(images) == len(indices)


def test_a_module_has_no_test_split():
    with pytest.raises(ExportError, match="verify_data='test' needs"):
        choose_images(TestSplit(), 'test', (1, 3, 8, 8))
