"""Inputs, and outputs of what executes the model here, for the package's tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image, PngImagePlugin

from ...errors import ExportError, ProgramError
from ...models.preprocessing import step_name
from ...utils.text import one_line
from ..formats import format_of
from ..runtime.inputs import upright
from ..runtime.loaded import LoadedProgram
from .facts import SILENT, ModelFacts

Picture = Union[np.ndarray, Image.Image]
#: VerifiedFile where no image of this kind is given.
_SEEDED = 3
#: Levels of 255 that a prepared photo may differ by. OpenCV's bicubic rounds otherwise, and so may
#: color management on a device.
_MAX_LEVELS = 1
#: Where Pillow ignores the aspect ratio: which of width and height it changes first depends on its
#: version.
_MAX_LEVELS_PILLOW = 8


@dataclass(frozen=True)
class Golden:
    """Pixels for the package's tests.

    Attributes:
        ready: images (H, W, 3) RGB or (H, W) gray, uint8, of the model's size.
        photos: pairs of an image of any size, its channels followed by alpha where it has some,
            and what the test pipeline makes of it.
    """

    ready: tuple[np.ndarray, ...]
    photos: tuple[tuple[np.ndarray, np.ndarray], ...]


def choose_images(facts: ModelFacts, images: Optional[Sequence[Picture]]) -> Golden:
    """Sort images into ready ones and photos; make up what is lacking.

    Args:
        images: PIL images, or uint8 arrays (H, W, 3) in RGB order or (H, W).

    Raises:
        ExportError: an image is of another kind, or its size is not the model's and the package
            cannot resize it.
    """
    ready, photos = [], []
    for index, image in enumerate(images or ()):
        pixels = _pixels(image, facts, index)
        if pixels.shape[:2] == facts.size:
            ready.append(pixels)
        else:
            photos.append(_photo(pixels, facts, f'image {index}'))
    if not ready:
        ready = [_blocks(facts, facts.size, seed) for seed in range(_SEEDED)]
    if not photos and facts.steps.missing is None:
        height, width = facts.size
        # A size that the pipeline can make the model's of.
        size = (2 * height + 3, 3 * width + 1) if facts.steps.expressions else facts.size
        photos = [_photo(_blocks(facts, size, _SEEDED), facts, 'a made-up photo')]
    if facts.steps.missing is None:
        photos.append(_transparent(*photos[0]))
    return Golden(tuple(ready), tuple(photos))


def write_golden(folder: Path, facts: ModelFacts, golden: Golden) -> None:
    """Write ``golden.json`` and the files that it names into ``folder``."""
    arithmetic = 'fp16' if facts.half else 'fp32'
    program = format_of(facts.path).load(facts.path, arithmetic=arithmetic)

    def case(pixels: np.ndarray, name: str) -> dict[str, Any]:
        (folder / name).write_bytes(np.ascontiguousarray(pixels).tobytes())
        label, values = _predicted(program, facts, pixels)
        return dict(pixels=name, label=label, probabilities=values)

    cases = [case(pixels, f'image-{i:02}.raw') for i, pixels in enumerate(golden.ready)]
    photos = []
    for i, (photo, prepared) in enumerate(golden.photos):
        _write_png(folder / f'photo-{i:02}.png', photo)
        photos.append(dict(file=f'photo-{i:02}.png', prepared=case(prepared, f'photo-{i:02}.raw')))
    content = dict(
        tolerance=dict(name=facts.tolerance.name, max_relative=facts.tolerance.max_relative),
        max_levels=_max_levels(facts),
        labels=list(facts.classes),
        cases=cases,
        photos=photos,
    )
    (folder / 'golden.json').write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
    )


def _predicted(
    program: LoadedProgram, facts: ModelFacts, pixels: np.ndarray
) -> tuple[str, list[float]]:
    """Label, and probabilities in the order of the classes."""
    if facts.image.kind == 'image':
        found = program.predict({facts.image.name: pixels})
        values = found[facts.probabilities]
        return found[facts.label], [float(values[c]) for c in facts.classes]
    found = program.predict({facts.image.name: as_tensor(pixels, facts.layout)})
    values = [float(v) for v in found[facts.probabilities].reshape(-1)]
    return facts.classes[int(np.argmax(values))], values


def as_tensor(pixels: np.ndarray, layout: str) -> np.ndarray:
    """What a model without image inputs takes.

    Args:
        pixels: (H, W, 3) RGB or (H, W), uint8.
        layout: 'rgb', 'bgr' or 'grayscale'.

    Returns:
        np.ndarray: float32 (1, C, H, W), 0 to 255, channels in that order.
    """
    planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    ordered = planes[::-1] if layout == 'bgr' else planes
    return np.ascontiguousarray(ordered[None], np.float32)


def _max_levels(facts: ModelFacts) -> int:
    depends = any(
        step.startswith('.resize(') and '.pillow(' in step for step in facts.steps.expressions
    )
    return _MAX_LEVELS_PILLOW if depends else _MAX_LEVELS


def _pixels(image: Any, facts: ModelFacts, index: int) -> np.ndarray:
    """(H, W, 3) RGB or (H, W), as the model's channels are."""
    if isinstance(image, np.ndarray):
        channels = image.shape[2:]
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in ((), (1,), (3,)):
            raise ExportError(
                f'image {index} is a {image.dtype} array of shape {image.shape}; allowed: uint8 '
                '(H, W, 3) in RGB order or (H, W)'
            )
        image = Image.fromarray(image if channels != (1,) else image[..., 0])
    if not isinstance(image, Image.Image):
        raise ExportError(
            f'image {index} is a {type(image).__name__}; allowed: PIL image or uint8 array'
        )
    mode = 'L' if facts.layout == 'grayscale' else 'RGB'
    try:
        return np.array(upright(image, mode))
    except ProgramError as error:
        raise ExportError(f'image {index}: {error}') from error


def _photo(pixels: np.ndarray, facts: ModelFacts, what: str) -> tuple[np.ndarray, np.ndarray]:
    shape = ' x '.join(map(str, pixels.shape[:2]))
    size = ' x '.join(map(str, facts.size))
    if facts.steps.missing is not None:
        raise ExportError(
            f'{what} is {shape} (H x W), but the model takes {size} and the Swift package cannot '
            f'do {facts.steps.missing}; give images of that size'
        )
    prepared = prepare_photo(pixels, facts.pipeline)
    if prepared.shape[:2] != facts.size:
        raise ExportError(
            f'{what} is {shape} (H x W), which the test pipeline makes '
            f'{" x ".join(map(str, prepared.shape[:2]))}; the model takes {size}'
        )
    return pixels, prepared


def _transparent(pixels: np.ndarray, prepared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same photo with every degree of transparency, which the loader drops."""
    height, width = pixels.shape[:2]
    alpha = np.arange(height * width).reshape(height, width, 1) % 256
    colors = pixels.reshape(height, width, -1)
    return np.concatenate([colors, alpha.astype(np.uint8)], 2), prepared


def prepare_photo(pixels: np.ndarray, pipeline: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What the pipeline makes of a decoded image.

    Args:
        pixels: (H, W, 3) or (H, W), uint8.
        pipeline: configs of its steps; those that load, pack or only change the container are
            passed over.

    Returns:
        np.ndarray: (H', W', 3) or (H', W'), channels in the same order.

    Raises:
        ExportError: a step cannot be built or fails on this image.
    """
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import TRANSFORMS

    results: dict[str, Any] = dict(img=pixels, img_shape=pixels.shape[:2])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for step in pipeline:
            if step_name(step) in SILENT:
                continue
            try:
                results = TRANSFORMS.build(_listed_as_tuples(step))(results)
            # Transforms of any package run here.
            except Exception as error:
                raise ExportError(
                    f'the step {step_name(step)} of the test pipeline fails on an image of shape '
                    f'{pixels.shape}: {one_line(error)}'
                ) from error
    return np.asarray(results['img'])


def _listed_as_tuples(step: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and mmcv takes sizes as nothing else."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in step.items()}


def _blocks(facts: ModelFacts, size: tuple[int, int], seed: int) -> np.ndarray:
    """Random colors in blocks: fine noise alone looks the same to a net."""
    generator = np.random.default_rng(seed)
    channels = facts.image.shape[1]
    block = max(1, min(size) // (4 + seed))
    small = [-(-side // block) for side in size]
    pixels = generator.integers(0, 256, (*small, channels), dtype=np.uint8)
    pixels = pixels.repeat(block, 0).repeat(block, 1)[: size[0], : size[1]]
    return pixels if channels == 3 else pixels[..., 0]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """With a mark that its colors are sRGB, so that nothing converts them."""
    info = PngImagePlugin.PngInfo()
    if pixels.ndim == 3 and pixels.shape[2] > 2:
        info.add(b'sRGB', b'\0')
    Image.fromarray(pixels).save(path, pnginfo=info)
