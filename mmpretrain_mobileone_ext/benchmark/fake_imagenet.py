"""Images of noise in ImageNet's layout, for measuring without ImageNet."""
from __future__ import annotations

from pathlib import Path
from typing import Union

from PIL import Image

from ..errors import SpecError
from .runtime_network import CLASSES, random_images

_SIZE = 256


def write_fake_imagenet(root: Union[str, Path], images: int) -> Path:
    """Write ``val/*.jpg`` (256 x 256) and ``meta/val.txt`` under ``root``.

    mmpretrain's ``ImageNet(data_root=root, split='val')`` reads it. What is
    there already is kept, if it has as many images.

    Args:
        root: made if missing; must not be a real ImageNet.
        images: how many, at least 1; labels are seeded noise too, so that
            accuracy says nothing.

    Returns:
        ``root``.

    Raises:
        SpecError: no images, or ``root`` holds a split that is another one.
    """
    if images < 1:
        raise SpecError(f'images={images!r} must be 1 or more')
    root = Path(root)
    index = root / 'meta' / 'val.txt'
    lines = [f'{i:05d}.jpg {i * 7919 % CLASSES}\n' for i in range(images)]
    if index.exists():
        if index.read_text('utf-8') == ''.join(lines):
            return root
        raise SpecError(f'{root} holds another validation split; choose '
                        'another folder')
    for folder in (index.parent, root / 'val'):
        folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(lines):
        pixels = random_images(1, _SIZE, seed=i)[0].byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(root / 'val' / line.split()[0])
    index.write_text(''.join(lines), 'utf-8')
    return root
