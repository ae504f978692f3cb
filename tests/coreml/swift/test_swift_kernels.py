"""The loops in C of a generated package, against NumPy, OpenCV and Pillow's own arithmetic."""

import ctypes
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from mmpretrain_mobileone_ext.coreml.swift.render import _TEMPLATES

COMPILER = shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
KERNELS = _TEMPLATES / 'kernels'
SIZE = ctypes.c_ssize_t
pytestmark = pytest.mark.skipif(COMPILER is None, reason='no compiler of C is installed')


@pytest.fixture(scope='module', params=['-O0', '-O2'])
def kernels(request, tmp_path_factory):
    """Built as in a debug and in a release build."""
    target = tmp_path_factory.mktemp('kernels') / 'kernels.so'
    # Not static, so that they can be called from here.
    flags = ['-std=c11', '-Wall', '-Wextra', '-Werror', '-fPIC', '-shared', '-DPIXEL_KERNEL=']
    subprocess.run(
        [COMPILER, request.param, *flags, KERNELS / 'PixelKernels.c', '-o', target], check=True
    )
    return ctypes.CDLL(str(target))


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


class Taps(ctypes.Structure):
    _fields_ = (
        ('count', SIZE),
        ('firsts', ctypes.c_void_p),
        ('starts', ctypes.c_void_p),
        ('weights', ctypes.c_void_p),
    )


def taps(size, count, most, seed=0):
    """Random taps: first old pixel, weights and where they start."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, most + 1, count)
    firsts = np.array([rng.integers(0, size - n + 1) for n in lengths], np.intp)
    starts = np.concatenate([[0], lengths.cumsum()]).astype(np.intp)
    weights = rng.integers(-(1 << 18), 1 << 19, starts[-1]).astype(np.int32)
    return firsts, starts, weights


def summed(old, firsts, starts, weights):
    """Axis 0 of (size, ...) as weighted sums, rounded as Pillow does, in int64."""
    found = []
    for index, first in enumerate(firsts):
        part = weights[starts[index] : starts[index + 1]].astype(np.int64)
        rows = old[first : first + len(part)].astype(np.int64)
        found.append((np.tensordot(part, rows, 1) + (1 << 21)) >> 22)
    return np.clip(found, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize(('size', 'count', 'most'), [(60, 41, 60), (9, 20, 3), (40, 3, 17)])
def test_weighted_sums(kernels, channels, size, count, most):
    old = noise(7, size, channels)
    firsts, starts, weights = taps(size, count, most)
    struct = Taps(count, *(a.ctypes.data for a in (firsts, starts, weights)))
    fourfold = weights.repeat(4)
    wide = np.zeros((7, count, channels), np.uint8)
    kernels.pixel_widen(
        pointer(old), SIZE(size), SIZE(7), SIZE(channels), struct, pointer(fourfold), pointer(wide)
    )
    wanted = summed(old.swapaxes(0, 1), firsts, starts, weights).swapaxes(0, 1)
    colors = slice(0, 3) if channels == 4 else slice(None)
    assert np.array_equal(wide[..., colors], wanted[..., colors])
    assert channels == 1 or (wide[..., 3] == 255).all()
    tall = np.ascontiguousarray(old.swapaxes(0, 1))
    high = np.zeros((count, 7, channels), np.uint8)
    kernels.pixel_heighten(pointer(tall), SIZE(7 * channels), struct, pointer(high))
    assert np.array_equal(high, summed(tall, firsts, starts, weights))


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('size', [(3, 5), (130, 67)])
def test_turns(kernels, channels, size):
    old = noise(*size, channels)
    row, column = size[1] * channels, channels
    found = np.zeros((size[1], size[0], channels), np.uint8)
    # Clockwise: columns run along the old rows, from the last one.
    kernels.pixel_turn(
        ctypes.c_void_p(old.ctypes.data + (size[0] - 1) * row),
        SIZE(-row),
        SIZE(column),
        SIZE(channels),
        SIZE(size[0]),
        SIZE(size[1]),
        pointer(found),
    )
    assert np.array_equal(found, np.rot90(old, -1))


def test_gray_and_color(kernels):
    gray, color = noise(999), noise(999, 4, seed=1)
    found = np.zeros((999, 4), np.uint8)
    kernels.pixel_gray_to_color(pointer(gray), SIZE(999), pointer(found))
    assert np.array_equal(found, np.stack([gray, gray, gray, np.full(999, 255)], 1))
    back = np.zeros(999, np.uint8)
    kernels.pixel_color_to_gray(pointer(color), SIZE(999), pointer(back))
    # Its reader has other weights than its cvtColor; those of PNG and JPEG are their libraries'.
    _, file = cv2.imencode('.bmp', np.ascontiguousarray(color[None, :, :3]))
    wanted = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(back, wanted[0])


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('is_reversed', [False, True])
def test_planes(kernels, channels, is_reversed):
    old = noise(101, channels)
    count = 3 if channels == 4 else 1
    found = np.full((count + 1, 101), -1, np.float32)
    kernels.pixel_planes(
        pointer(old), SIZE(channels), SIZE(101), ctypes.c_bool(is_reversed), pointer(found)
    )
    wanted = old[:, :count].T[::-1] if is_reversed else old[:, :count].T
    assert np.array_equal(found[:count], wanted)
    assert (found[count] == -1).all()


def test_every_premultiplied_color_comes_back(kernels):
    """Of two colors that one product stands for, either is right."""
    alpha, color = (a.ravel() for a in np.meshgrid(np.arange(1, 256), np.arange(256)))
    product = np.round(color * alpha / 255).astype(np.uint8)
    pixels = np.stack([product] * 3 + [alpha], 1).astype(np.uint8)
    kernels.pixel_unpremultiply(pointer(pixels), SIZE(len(pixels)))
    again = np.round(pixels[:, 0].astype(np.float64) * alpha / 255)
    assert np.array_equal(again, product)
    assert (pixels[:, 3] == 255).all()
    opaque = alpha == 255
    assert np.array_equal(pixels[opaque, 0], color[opaque])
