"""Images that the loader keeps are the ones that it would decode again."""

import cv2
import numpy as np
import pytest
from mmcv import transforms as mmcv
from PIL import Image

from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models.preprocessing import LoadImageFromFile


@pytest.fixture
def photo(tmp_path):
    """96 x 64 pixels of noise, stored turned as a camera does."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif)
    return tmp_path / 'a.jpg'


def load(loader, path):
    return loader(dict(img_path=str(path)))['img']


def test_without_options_it_is_mmcvs(photo):
    assert np.array_equal(load(LoadImageFromFile(), photo), load(mmcv.LoadImageFromFile(), photo))


def test_what_is_kept_is_what_was_decoded_and_nobody_can_spoil_it(photo):
    loader = LoadImageFromFile(keep_bytes=10**6)
    wanted = load(mmcv.LoadImageFromFile(), photo)
    first = load(loader, photo)
    first[:] = 0
    photo.unlink()  # from memory
    again = loader(dict(img_path=str(photo)))
    assert np.array_equal(again['img'], wanted)
    assert again['img_shape'] == again['ori_shape'] == wanted.shape[:2] == (96, 64)


def test_what_has_no_room_is_decoded_each_time_to_the_same_pixels(photo):
    small = LoadImageFromFile(keep_bytes=32 * 48 * 3 - 1, short_edge=32)
    enough = LoadImageFromFile(keep_bytes=32 * 48 * 3, short_edge=32)
    found = [load(loader, photo) for loader in (small, small, enough, enough)]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    photo.unlink()
    assert np.array_equal(load(enough, photo), found[0])
    with pytest.raises(FileNotFoundError):
        load(small, photo)


def test_shrinking_averages_areas_and_enlarges_nothing(photo):
    whole = load(mmcv.LoadImageFromFile(), photo)
    wanted = cv2.resize(whole, (32, 48), interpolation=cv2.INTER_AREA)
    assert np.array_equal(load(LoadImageFromFile(short_edge=32), photo), wanted)
    assert np.array_equal(load(LoadImageFromFile(short_edge=64), photo), whole)


@pytest.mark.parametrize('options', [dict(short_edge=0), dict(keep_bytes=-1), dict(short_edge='8')])
def test_wrong_options(options):
    with pytest.raises(SpecError, match='LoadImageFromFile'):
        LoadImageFromFile(**options)
