"""A folder of photos as people have them: sizes, formats, names and faults of every kind.

Four classes that differ in what is seen, not in how it is stored: crops of scikit-learn's two
photos, its digits on coloured paper, and woven patterns; each under its own light, scale, turn and
blur. As a program: ``python photo_kit.py FOLDER [IMAGES]``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_digits, load_sample_images

#: Class to its share of the images: as uneven as real folders are.
SHARES = {'Blüten': 0.4, 'alte Tempel': 0.3, 'Ziffern': 0.2, 'Muster & Stoffe': 0.1}
_EXIF_ORIENTATION = 0x0112
#: Orientation to what a viewer does with it, undone before it is stored.
_TURNED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
_SIZES = ((640, 480), (480, 640), (800, 800), (1280, 720), (300, 400), (97, 131))
_LARGE = (4032, 3024)  # 12 megapixels


def write_photos(root: Path, count: int = 300, large: int = 6, heic: bool = True) -> Path:
    """Write ``root/<class>/<photo>``, the same each time.

    Args:
        root: folder to create.
        count: photos that can be read, of all classes.
        large: how many of them have 12 megapixels.
        heic: write some as HEIC, which needs pillow-heif.

    Returns:
        ``root``.
    """
    rng = random.Random(0)
    draw = _subjects(rng)
    written = 0
    for name, share in SHARES.items():
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(max(4, round(share * count))):
            size = _LARGE if index < large / len(SHARES) else rng.choice(_SIZES)
            photo = _in_some_light(draw[name](), rng).resize(size, Image.Resampling.BICUBIC)
            _save(photo, folder, index, rng, heic)
            written += 1
    _write_faults(root / 'Blüten')
    return root


def _subjects(rng: random.Random) -> dict[str, Callable[[], Image.Image]]:
    temple, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    digits = load_digits().images

    def crop(photo: Image.Image) -> Image.Image:
        side = rng.randint(140, 300)
        # The upper part of both is empty: sky, and leaves out of focus.
        left, top = rng.randint(0, photo.width - side), rng.randint(100, photo.height - side)
        cut = photo.crop((left, top, left + side, top + side))
        return ImageOps.mirror(cut) if rng.random() < 0.5 else cut

    def digit() -> Image.Image:
        ink = Image.fromarray((digits[rng.randrange(len(digits))] * 15).astype(np.uint8))
        ink = ink.resize((160, 160), Image.Resampling.BICUBIC).rotate(rng.uniform(-20, 20))
        paper = Image.new('RGB', (240, 240), _color(rng, 120, 255))
        paper.paste(_color(rng, 0, 110), (rng.randint(20, 60), rng.randint(20, 60)), ink)
        return paper

    def pattern() -> Image.Image:
        y, x = np.mgrid[:240, :240] / rng.uniform(4, 14)
        turn = rng.uniform(0, np.pi)
        wave = np.sin(x * np.cos(turn) + y * np.sin(turn)) * np.sin(
            y * np.cos(turn) - x * np.sin(turn)
        )
        weave = Image.fromarray(np.uint8(127 + 127 * np.sign(wave)))
        return ImageOps.colorize(weave, _color(rng, 0, 130), _color(rng, 100, 255))

    return {
        'Blüten': lambda: crop(flower),
        'alte Tempel': lambda: crop(temple),
        'Ziffern': digit,
        'Muster & Stoffe': pattern,
    }


def _color(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (rng.randint(low, high) for _ in range(3))
    return red, green, blue


def _in_some_light(photo: Image.Image, rng: random.Random) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        photo = kind(photo).enhance(rng.uniform(0.6, 1.4))
    return photo.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))


def _save(photo: Image.Image, folder: Path, index: int, rng: random.Random, heic: bool) -> None:
    """One of the ways in which cameras, scanners and the web store a photo."""
    kind, name = index % 10, f'Foto Nº{index} ({folder.name[:3]})'
    if kind == 1:
        orientation = rng.choice(sorted(_TURNED))
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = orientation
        photo.transpose(_TURNED[orientation]).save(folder / f'{name}.JPG', exif=exif)
    elif kind == 2:
        photo.convert('L').save(folder / f'{name}.jpeg')
    elif kind == 3:
        photo.convert('CMYK').save(folder / f'{name}.jpg')
    elif kind == 4:
        photo.putalpha(Image.linear_gradient('L').resize(photo.size))
        photo.save(folder / f'{name}.png', compress_level=1)
    elif kind == 5:
        photo.save(folder / f'{name}.webp')
    elif kind == 6 and heic:
        from pillow_heif import register_heif_opener

        register_heif_opener()
        photo.save(folder / f'{name}.HEIC')
    else:
        photo.save(folder / f'{name}.jpg', quality=88)


def _write_faults(folder: Path) -> None:
    whole = next(p for p in sorted(folder.iterdir()) if p.suffix == '.jpg').read_bytes()
    (folder / 'abgebrochen.jpg').write_bytes(whole[: len(whole) // 2])
    (folder / '._Foto.jpg').write_bytes(b'\0\5\x16\7' + bytes(60))
    (folder / 'Notizen.txt').write_text('keine Fotos', 'utf-8')


if __name__ == '__main__':
    write_photos(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
