"""Networks and images that behave like real ones, for benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import SpecError

CLASSES = 1000
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_IMAGES = 16
_BIAS = 0.5
_SIZE = 256  # of the images of a fake ImageNet, in pixels


def classifier_config(arch: str, size: int) -> dict[str, Any]:
    """Config of MobileOne with a head for 1000 classes."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(dict(type='ConfigurableMobileOne', arch=arch, deploy=True))
        with torch.no_grad():
            channels = backbone.eval()(torch.zeros(1, 3, size, size))[-1]
    return dict(
        type='DeployableClassifier',
        backbone=dict(type='ConfigurableMobileOne', arch=arch),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=channels.shape[1]),
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
    )


def build_classifier(config: dict[str, Any], size: int) -> nn.Module:
    """Random weights of seed 0, with norms that fit random images.

    With fresh statistics, activations of random weights would grow from layer to layer until they
    leave fp16. And without biases, which make the layers more linear, they would multiply every
    rounding error.

    Returns:
        In eval mode, branches not folded.
    """
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.manual_seed(0)
        model = MODELS.build(config)
        pixels = random_images(_IMAGES, size)
        data = model.data_preprocessor({'inputs': pixels}, False)
        _fit_norms(model.train(), data['inputs'])
    return model.eval()


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Pixels (N, 3, S, S), whole numbers 0 to 255 in float32.

    Each image has blocks and a range of colors of its own, so that not all look the same to a
    network.
    """
    rng = torch.Generator().manual_seed(seed)
    images = []
    for i in range(count):
        block = 2 ** (1 + i % 6)
        side = -(-size // block)
        low, high = torch.rand(2, 3, 1, 1, generator=rng).sort(0).values
        small = low + (high - low) * torch.rand(3, side, side, generator=rng)
        image = small.repeat_interleave(block, 1).repeat_interleave(block, 2)
        images.append((255 * image[:, :size, :size]).round())
    return torch.stack(images)


@torch.no_grad()
def _fit_norms(model: nn.Module, images: Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    kept = [m.momentum for m in norms]
    for norm in norms:
        norm.bias.fill_(_BIAS)
        norm.momentum = 1.0
    model(images, mode='tensor')
    for norm, momentum in zip(norms, kept):
        norm.momentum = momentum


def write_fake_imagenet(root: Union[str, Path], images: int) -> Path:
    """Write ``val/*.jpg`` (256 x 256) and ``meta/val.txt`` under ``root``.

    mmpretrain's ``ImageNet(data_root=root, split='val')`` reads it. What is there already is kept,
    if it has as many images.

    Args:
        root: made if missing; must not be a real ImageNet.
        images: how many, at least 1; labels are seeded noise too, so that accuracy says nothing.

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
        raise SpecError(f'{root} holds another validation split; choose another folder')
    for folder in (index.parent, root / 'val'):
        folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(lines):
        pixels = random_images(1, _SIZE, seed=i)[0].byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(root / 'val' / line.split()[0])
    index.write_text(''.join(lines), 'utf-8')
    return root
