"""A PIL image is what MMPretrain's loader reads from the same file."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from runtime_kit import SIZE

from mmpretrain_mobileone_ext.coreml.program.graph import Feature
from mmpretrain_mobileone_ext.coreml.runtime.inputs import to_tensor
from mmpretrain_mobileone_ext.coreml.swift.facts import Steps
from mmpretrain_mobileone_ext.coreml.swift.golden import choose_images
from mmpretrain_mobileone_ext.errors import ExportError, ProgramError

RNG = np.random.default_rng(5)
H, W = SIZE
FEATURE = Feature('image', 'image', (1, 3, H, W), 'uint8', 'RGB')


def colors(height=H, width=W, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def written(path, array, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


def loaders(path):
    """(H, W, 3) in RGB order."""
    read = LoadImageFromFile().transform(dict(img_path=str(path)))
    return read['img'][..., ::-1].copy()


def ours(path):
    tensor = to_tensor(Image.open(path), FEATURE)
    return tensor[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(orientation, suffix, tmp_path):
    lies = orientation > 4
    pixels = colors(*((W, H) if lies else (H, W)))
    path = written(tmp_path / f'x.{suffix}', pixels, orientation)
    wanted = loaders(path)
    assert wanted.shape == (H, W, 3)
    if suffix == 'webp':  # lossy: two decoders' chroma
        assert np.abs(ours(path) - wanted).mean() < np.abs(ours(path) - wanted[::-1]).mean() / 4
    else:
        assert np.array_equal(ours(path), wanted)


def test_every_level_of_16_bits(tmp_path):
    """Clipping would make all but the lowest 256 of them white."""
    levels = np.linspace(0, 65535, H * W).round().astype(np.uint16)
    levels[:200] = np.arange(200, 400)
    for suffix in ('png', 'tiff'):
        path = written(tmp_path / f'x.{suffix}', levels.reshape(H, W))
        assert Image.open(path).mode == 'I;16'
        assert np.array_equal(ours(path), loaders(path))
    big_endian = Image.frombytes('I;16B', (W, H), levels.astype('>u2').tobytes())
    assert np.array_equal(to_tensor(big_endian, FEATURE)[0, 0].numpy(), loaders(path)[..., 0])


def test_16_bit_color(tmp_path):
    path = tmp_path / 'x.png'
    cv2.imwrite(str(path), RNG.integers(0, 65536, (H, W, 3), np.uint16))
    assert np.array_equal(ours(path), loaders(path))


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA'])
def test_modes(mode, tmp_path):
    image = Image.fromarray(colors(channels=4))
    image = image if mode == 'RGBA' else image.convert('RGB').convert(mode)
    if mode == 'LA':
        image.putalpha(Image.fromarray(colors()[..., 0]))
    path = tmp_path / 'x.png'
    image.save(path, **(dict(transparency=3) if mode == 'P' else {}))
    assert Image.open(path).mode == mode
    assert np.array_equal(ours(path), loaders(path))


def test_cmyk_within_one_level(tmp_path):
    path = tmp_path / 'x.jpg'
    Image.fromarray(colors()).convert('CMYK').save(path, quality=95)
    assert np.abs(ours(path) - loaders(path)).max() <= 1


def test_premultiplied():
    image = Image.fromarray(colors(channels=4))
    image.putalpha(255)
    assert np.array_equal(to_tensor(image.convert('RGBa'), FEATURE), to_tensor(image, FEATURE))


@pytest.mark.parametrize(
    ('array', 'mode'),
    [(np.full((H, W), 70000, np.int32), 'I'), (np.full((H, W), 0.5, np.float32), 'F')],
)
def test_values_without_a_range_are_refused(array, mode):
    image = Image.fromarray(array)
    with pytest.raises(ProgramError, match=f"mode '{mode}'.*scale it to"):
        to_tensor(image, FEATURE)
    with pytest.raises(ExportError, match=f"image 0: .*mode '{mode}'"):
        choose_images(Facts, [image])


def test_floats_for_an_input_of_floats():
    feature = Feature('image', 'image', (1, 1, H, W), 'fp16', 'GRAYSCALE_FLOAT16')
    values = RNG.uniform(0, 255, (H, W)).astype(np.float32)
    assert np.array_equal(to_tensor(Image.fromarray(values), feature)[0, 0], values)


def test_a_flexible_input_goes_by_the_upright_size(tmp_path):
    shapes = ((1, 3, H, W), (1, 3, 2 * W, H))
    feature = Feature('image', 'image', shapes[0], 'uint8', 'RGB', shapes)
    path = written(tmp_path / 'x.png', colors(H, 2 * W), 6)
    assert to_tensor(Image.open(path), feature).shape == shapes[1]


class Facts:
    layout, size = 'rgb', SIZE
    steps = Steps((), missing='a step')


def test_golden_values_are_of_the_upright_image(tmp_path):
    path = written(tmp_path / 'x.png', colors(W, H), 8)

    golden = choose_images(Facts, [Image.open(path)])
    assert np.array_equal(golden.ready[0], loaders(path))


def test_labels_agree_whatever_the_file(tiny_package, tmp_path):
    from mmpretrain_mobileone_ext.coreml import load_program

    program = load_program(tiny_package)
    levels = RNG.integers(0, 65536, (H, W), np.uint16)
    for path in (written(tmp_path / 'a.png', levels), written(tmp_path / 'b.png', colors(W, H), 6)):
        assert program.predict({'image': Image.open(path)}) == program.predict(
            {'image': loaders(path)}
        )
