"""Sampling at computed places against torch and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runtime_kit import check, noise, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

X = noise(2, 3, 5, 7)
# Far out on all sides, so that every padding is reached, several times.
PLACES = noise(2, 4, 6, 2, low=-4, high=4)
MINUS_ONE = 'normalized_minus_one_to_one'


def resample(
    x, places, mode='bilinear', padding='constant', value=0.0, coordinates=MINUS_ONE, align=False
):
    return OPS['resample'](
        torch.tensor(x), torch.tensor(places), mode, padding, value, coordinates, align
    ).numpy()


# Mirrored at centers without, at edges with the corner aligned otherwise.
TORCH = [
    ('constant', True, 'zeros'),
    ('constant', False, 'zeros'),
    ('border', True, 'border'),
    ('border', False, 'border'),
    ('reflection', True, 'reflection'),
    ('symmetric', False, 'reflection'),
]


@pytest.mark.parametrize('mode', ['bilinear', 'nearest'])
@pytest.mark.parametrize(('padding', 'align', 'theirs'), TORCH)
def test_resample_is_grid_sample(mode, padding, align, theirs):
    wanted = F.grid_sample(torch.tensor(X), torch.tensor(PLACES), mode, theirs, align)
    check(resample(X, PLACES, mode, padding, align=align), wanted, 1e-5)


@pytest.mark.parametrize('padding', ['constant', 'border', 'reflection', 'symmetric'])
def test_paddings_are_those_of_the_document(padding):
    """1 2 3, read pixel by pixel far beyond its ends."""
    row = np.float32([1, 2, 3])
    names = {
        'constant': 'constant',
        'border': 'edge',
        'reflection': 'reflect',
        'symmetric': 'symmetric',
    }
    extra = {'constant_values': -5} if padding == 'constant' else {}
    wanted = np.pad(row, 8, names[padding], **extra)
    places = np.stack([np.arange(-8, 11), np.zeros(19)], -1)
    for mode in ('bilinear', 'nearest'):
        found = resample(
            row.reshape(1, 1, 1, 3),
            places.reshape(1, 1, -1, 2).astype(np.int32),
            mode,
            padding,
            -5.0,
            'unnormalized',
        )
        assert np.array_equal(found.reshape(-1), wanted)


def test_constant_padding_is_interpolated():
    found = resample(
        np.float32([[[[2, 4]]]]),
        np.float32([[[[-0.25, 0], [1.5, 0], [0.5, -0.5]]]]),
        value=10.0,
        coordinates='unnormalized',
    )
    check(found.reshape(-1), np.float32([4, 7, 6.5]))


@pytest.mark.parametrize('align', [True, False])
def test_normalized_from_zero(align):
    check(
        resample(X, (PLACES + 1) / 2, align=align, coordinates='normalized_zero_to_one'),
        resample(X, PLACES, align=align),
        1e-4,
    )


def test_places_that_are_no_numbers():
    places = np.full((2, 1, 1, 2), np.nan, np.float32)
    places[1] = np.inf
    assert (resample(X, places, value=3.0) == 3).all()
    assert np.isfinite(resample(X, places, padding='reflection')).all()


@pytest.mark.parametrize('samples', [1, 2])
def test_affine_is_affine_grid(samples):
    matrix = torch.tensor(noise(samples, 6, low=-1.5, high=1.5))
    grid = F.affine_grid(matrix.reshape(-1, 2, 3).expand(2, -1, -1), [2, 3, 4, 6], True)
    wanted = F.grid_sample(torch.tensor(X), grid, align_corners=True)
    found = OPS['affine'](
        torch.tensor(X),
        matrix,
        4,
        6,
        MINUS_ONE,
        'constant',
        True,
        sampling_mode='bilinear',
        padding_value=0.0,
    )
    check(found.numpy(), wanted, 1e-4)


SIXTEEN = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def crop(boxes, size, x=SIXTEEN, mode='ALIGN_CORNERS', **options):
    return OPS['crop_resize'](
        torch.tensor(x),
        boxes=torch.tensor(np.float32(boxes)),
        target_height=size[0],
        target_width=size[1],
        sampling_mode=mode,
        **options,
    ).numpy()


def test_crop_resize_gives_what_a_device_gave():
    """Figures of Apple's own tests."""
    box = [[1, 1, 2, 2]]
    assert crop(box, (2, 2)).reshape(-1).tolist() == [6, 7, 10, 11]
    assert crop(box, (1, 1)).reshape(-1).tolist() == [8.5]
    back = crop([[2, 2, 1, 1]], (2, 2))
    assert back.reshape(-1).tolist() == [11, 10, 7, 6]
    found = crop(
        [[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]],
        (2, 2),
        pad_value=10.0,
        box_indices=torch.zeros(3),
        normalized_coordinates=True,
    )
    np.testing.assert_allclose(
        found.reshape(-1), [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3], rtol=1e-5
    )


MODES = ['STRICT_ALIGN_CORNERS', 'ALIGN_CORNERS', 'DEFAULT', 'OFFSET_CORNERS', 'UNALIGN_CORNERS']


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (9, 8)])
def test_a_box_around_everything_is_a_resize(mode, size):
    """crop_resize has resize_bilinear's sampling, by its document."""
    whole = crop([[0, 0, 4, 6]] * 2, size, X, mode)
    wanted = OPS['resize_bilinear'](torch.tensor(X), *size, mode)
    check(whole, wanted, 1e-5)


@pytest.mark.parametrize('mode', MODES)
def test_a_box_of_pixels_is_the_resize_of_a_crop(mode):
    found = crop([[1, 2, 3, 6]], (4, 3), X[:1], mode)
    wanted = OPS['resize_bilinear'](torch.tensor(X[:1, :, 1:4, 2:7]), 4, 3, mode)
    check(found, wanted, 1e-5)


def test_box_coordinates():
    wanted = crop([[0.5, 1, 2.5, 3]], (3, 3))
    for order, box in {
        'CORNERS_WIDTH_FIRST': [1, 0.5, 3, 2.5],
        'CENTER_SIZE_HEIGHT_FIRST': [1.5, 2, 2, 2],
        'CENTER_SIZE_WIDTH_FIRST': [2, 1.5, 2, 2],
    }.items():
        check(crop([box], (3, 3), box_coordinate_mode=order), wanted)
    scaled = crop([[1, 2, 5, 6]], (3, 3), spatial_scale=0.5)
    check(scaled, wanted)
    normal = crop([[0.5 / 3, 1 / 3, 2.5 / 3, 1]], (3, 3), normalized_coordinates=True)
    check(normal, wanted, 1e-5)


def test_regions_before_ios17(tmp_path):
    """Every box of every image, or of the one that it names."""
    rows = np.float32([[0, 1, 3, 5], [1, 0, 4, 6]])
    named = np.concatenate([np.float32([[1], [0]]), rows], 1)
    options = dict(target_height=3, target_width=2, sampling_mode='UNALIGN_CORNERS')
    every, one = (
        OPS['crop_resize'](torch.tensor(X), torch.tensor(r).reshape(2, 1, -1, 1, 1), **options)
        for r in (rows, named)
    )
    assert every.shape == (2, 2, 3, 3, 2)
    assert one.shape == (2, 1, 3, 3, 2)
    for i, row in enumerate(rows):
        for j in range(2):
            wanted = crop([row], (3, 2), X[j : j + 1], 'UNALIGN_CORNERS')
            check(every[i, j].numpy(), wanted[0])
        check(one[i, 0].numpy(), every[i, 1 - i].numpy())


@pytest.mark.parametrize('target', ['iOS16', 'iOS17'])
def test_saved_program(target, tmp_path):
    x, places = X[:1], PLACES[:1]
    matrix = noise(1, 6, low=-1, high=1)
    box = {
        'iOS16': {'roi': np.float32([0, 1, 2, 3, 5]).reshape(1, 1, 5, 1, 1)},
        'iOS17': {'boxes': np.float32([[1, 2, 3, 5]]), 'box_indices': np.int32([0])},
    }[target]

    def build(mb, x, places):
        return [
            mb.resample(
                x=x,
                coordinates=places,
                sampling_mode='bilinear',
                padding_mode='constant',
                padding_value=1.5,
                coordinates_mode=MINUS_ONE,
                align_corners=True,
                name='r',
            ),
            mb.affine(
                x=x,
                transform_matrix=matrix,
                output_height=3,
                output_width=4,
                sampling_mode='bilinear',
                padding_mode='constant',
                padding_value=0.0,
                coordinates_mode=MINUS_ONE,
                align_corners=True,
                name='a',
            ),
            mb.crop_resize(x=x, target_height=2, target_width=3, name='c', **box),
        ]

    inputs = {'x': x, 'places': places}
    loaded = load_program(save_mil(build, inputs, tmp_path, target))
    got = loaded.predict(inputs)
    check(got['r'], resample(x, places, value=1.5, align=True))
    grid = F.affine_grid(torch.tensor(matrix).reshape(1, 2, 3), [1, 3, 3, 4], True)
    check(got['a'], F.grid_sample(torch.tensor(x), grid, align_corners=True), 1e-5)
    check(got['c'].reshape(1, 3, 2, 3), crop([[1, 2, 3, 5]], (2, 3), x, 'DEFAULT'))
    batch = loaded.predict_batch(
        {'x': torch.tensor(X)[:, None], 'places': torch.tensor(PLACES)[:, None]}
    )
    for name, value in got.items():
        check(batch[name][0].numpy().reshape(value.shape), value)


def test_an_image_that_does_not_exist():
    with pytest.raises(Exception, match=r'out of (range|DATA bounds)'):
        crop([[0, 0, 1, 1]], (1, 1), box_indices=torch.tensor([1]))


def test_what_is_unknown():
    for given in (dict(mode='cubic'), dict(padding='wrap'), dict(coordinates='polar')):
        with pytest.raises(ProgramError, match='is unknown; allowed'):
            resample(X, PLACES, **given)
    for given in (dict(mode='NEAR'), dict(box_coordinate_mode='CORNERS')):
        with pytest.raises(ProgramError, match='is unknown; allowed'):
            crop([[0, 0, 1, 1]], (1, 1), **given)
    with pytest.raises(ProgramError, match='allowed: >= 1'):
        crop([[0, 0, 1, 1]], (0, 1))
    with pytest.raises(ProgramError, match='do not fit'):
        resample(X, PLACES[:1])
    with pytest.raises(ProgramError, match='align_corners'):
        OPS['affine'](
            torch.tensor(X),
            torch.zeros(1, 6),
            2,
            2,
            MINUS_ONE,
            'constant',
            False,
            sampling_mode='bilinear',
            padding_value=0.0,
        )
