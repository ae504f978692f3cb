"""A loaded program: what it takes, and how inputs are fitted and batched."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ...errors import ProgramError
from ..program.graph import Feature, Program

_MODES = {'RGB': 'RGB', 'BGR': 'RGB', 'GRAYSCALE': 'L', 'GRAYSCALE_FLOAT16': 'F'}
#: Orientations in which rows and columns change places.
_LYING = (5, 6, 7, 8)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an image once it is turned as its EXIF data say."""
    lies = image.getexif().get(ExifTags.Base.Orientation) in _LYING
    return image.size if lies else (image.height, image.width)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """A PIL image as MMPretrain's loader gives the file it was opened from.

    It is turned as its EXIF data say, of 16 bits the upper 8 count, and
    transparency is dropped, all as in OpenCV. Colors of a CMYK JPEG may
    differ from OpenCV's by one level, and those of a transparent TIFF are
    darker there.

    Args:
        image: of any mode but 32-bit ones, which have no range that could
            be mapped to 0..255.
        mode: 'RGB', 'L' or 'F', with values 0..255; 'F' takes 'F' too.

    Raises:
        ProgramError: the image has 32-bit values.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16'):
        upper = np.asarray(image).astype(np.uint16) >> 8
        image = Image.fromarray(upper.astype(np.uint8))
    if image.mode in ('I', 'F') and image.mode != mode:
        raise ProgramError(
            f'the image has mode {image.mode!r}, 32-bit values of no fixed '
            "range; scale it to 0..255 and convert it to 'L' or 'RGB'"
        )
    # Pillow takes a premultiplied image back to colors by way of these.
    through = {'RGBa': 'RGBA', 'La': 'LA'}.get(image.mode, image.mode)
    return image.convert(through).convert(mode)


def to_tensor(value: Any, feature: Feature) -> Tensor:
    """Convert one image to the tensor the program starts from.

    Args:
        value (PIL.Image.Image | np.ndarray | Tensor): A PIL image, read as
            by :func:`upright`; or an array (H, W, 3) in RGB order or (H, W),
            uint8; or a tensor (1, C, H, W) with values 0..255 in the model's
            own channel order. The size must be the model's.
        feature (Feature): The image input.

    Returns:
        Tensor: (1, C, H, W), fp32, values 0..255, channels in the model's
        order.

    Raises:
        ProgramError: If the type, the mode, the dtype or the size does not
            fit.
    """
    if isinstance(value, Tensor):
        return _check_shape(value, feature).float()
    if isinstance(value, Image.Image):
        value = np.asarray(upright(value, _MODES[feature.color_layout or '']))
    elif not isinstance(value, np.ndarray):
        raise ProgramError(
            f'image {feature.name!r} is a {type(value).__name__}; allowed: '
            f'PIL image, uint8 array (H, W[, 3]), tensor (1, C, H, W)'
        )
    elif value.dtype != np.uint8:
        raise ProgramError(f'image {feature.name!r} is a {value.dtype} array; allowed: uint8')
    return _from_array(value, feature)


def _from_array(array: Any, feature: Feature) -> Tensor:
    """Planar tensor from (H, W) or (H, W, 3) in RGB order."""
    _, channels, height, width = feature.shape
    expected = (height, width) if channels == 1 else (height, width, 3)
    if array.shape != expected:
        raise ProgramError(
            f'image {feature.name!r} has size (H, W[, C]) = {array.shape}; '
            f'the model takes exactly {expected}'
        )
    pixels = torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
    planar = pixels.reshape(height, width, channels).permute(2, 0, 1)
    if feature.color_layout == 'BGR':
        planar = planar.flip(0)
    return planar.unsqueeze(0).contiguous()


def _check_shape(tensor: Tensor, feature: Feature) -> Tensor:
    if tuple(tensor.shape) != feature.shape:
        raise ProgramError(
            f'image {feature.name!r} is a tensor of shape '
            f'{tuple(tensor.shape)}; the model takes exactly {feature.shape}'
        )
    return tensor


def to_pil(tensor: Tensor, feature: Feature) -> Image.Image:
    """Inverse of :func:`to_tensor`: a PIL image for Apple's runtime.

    Args:
        tensor (Tensor): (1, C, H, W), values 0..255, model channel order.
        feature (Feature): The image input.

    Returns:
        PIL.Image.Image: Mode RGB, L or F; values rounded to uint8 except
        for mode F.
    """
    planar = tensor[0].flip(0) if feature.color_layout == 'BGR' else tensor[0]
    pixels = planar.permute(1, 2, 0).squeeze(-1).cpu().float()
    if feature.color_layout == 'GRAYSCALE_FLOAT16':
        return Image.fromarray(pixels.numpy())
    rounded = pixels.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rounded.numpy())


def fitted(feature: Feature, shape: tuple[int, ...]) -> Feature:
    """The input as if ``shape`` were the only one it takes.

    Raises:
        ProgramError: If the input does not take ``shape``; lists what it
            takes.
    """
    if not feature.allows(shape):
        raise ProgramError(
            f'input {feature.name!r} has shape {tuple(shape)}; the model takes {feature.allowed}'
        )
    return replace(feature, shape=tuple(shape), shapes=(), ranges=())


def fitted_to_image(feature: Feature, value: Any) -> Feature:
    """As :func:`fitted`, for anything that may be given as an image.

    Values that are no images, and inputs of one size, are left to
    :func:`.images.to_tensor`.
    """
    shape = _image_shape(feature, value)
    if shape is None or not feature.is_flexible:
        return feature
    return fitted(feature, shape)


def _image_shape(feature: Feature, value: Any) -> Optional[tuple[int, ...]]:
    channels = feature.shape[1]
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Image.Image):
        return (1, channels, *upright_size(value))
    if isinstance(value, np.ndarray) and value.ndim in (2, 3):
        return (1, channels, *value.shape[:2])
    return None


class Samples(NamedTuple):
    """A batch of one input, and how the program can take it.

    Attributes:
        rows: (N, ...), the first dimension counts samples.
        alone: shape in which the program takes a single sample.
        together: numbers of samples, 2 or more, that the program takes as
            one (n, ...) input.
    """

    rows: Tensor
    alone: tuple[int, ...]
    together: frozenset[int]


class Chunk(NamedTuple):
    """Samples ``start`` to ``stop`` of a batch, run as one input or not."""

    start: int
    stop: int
    as_one: bool


def samples(value: Tensor, feature: Feature) -> Samples:
    """Find how the program takes the samples of (N, ...).

    Args:
        value (Tensor): (N, *shape) with a whole input for each sample, or
            (N, *shape[1:]) for an input whose first dimension counts them.
        feature (Feature): The input.

    Raises:
        ProgramError: If it takes no samples of this shape.
    """
    if not isinstance(value, Tensor):
        raise ProgramError(
            f'input {feature.name!r} is a {type(value).__name__}; a batch '
            f'must be a torch tensor (N, ...)'
        )
    sample = tuple(value.shape[1:])
    if feature.allows(sample):
        return Samples(value, sample, frozenset())
    unit = (1, *sample)
    if not feature.allows(unit):
        raise ProgramError(
            f'input {feature.name!r} is a batch of shape '
            f'{tuple(value.shape)}; the model takes {feature.allowed}'
        )
    return Samples(value, unit, _together(feature, sample, len(value)))


def _together(feature: Feature, sample: tuple[int, ...], count: int) -> frozenset[int]:
    sizes: Collection[int] = {shape[0] for shape in feature.shapes}
    if feature.ranges:
        sizes = range(2, count + 1)
    return frozenset(n for n in sizes if n > 1 and feature.allows((n, *sample)))


def chunks(batch: Mapping[str, Samples], limit: int) -> Iterator[Chunk]:
    """Divide a batch into what the program takes at a time.

    Samples go in as one input as long as the program takes so many, the
    most first; the rest goes in alone, ``limit`` at a time.

    Args:
        batch (Mapping[str, Samples]): Input name to samples.
        limit (int): Most samples of a chunk.

    Raises:
        ProgramError: If the numbers of samples differ or are 0.
    """
    count, start = _count(batch), 0
    together = frozenset.intersection(*(s.together for s in batch.values()))
    while start < count:
        left = min(limit, count - start)
        fits = [n for n in together if n <= left]
        stop = start + max(fits, default=left)
        yield Chunk(start, stop, bool(fits))
        start = stop


def _count(batch: Mapping[str, Samples]) -> int:
    """N, the same and at least 1 for every input."""
    counts = {name: len(item.rows) for name, item in batch.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ProgramError(f'batch sizes are {counts}; they must be equal and at least 1')
    return next(iter(counts.values()))


def rows_of(batch: Mapping[str, Samples], chunk: Chunk) -> dict[str, Tensor]:
    """Inputs (n, ...) of a chunk; alone each row is a whole input."""
    found = {}
    for name, item in batch.items():
        rows = item.rows[chunk.start : chunk.stop]
        found[name] = rows if chunk.as_one else rows.reshape(len(rows), *item.alone)
    return found


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Outputs of samples that were run alone, as (n, ...)."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def drop_unit(value: Tensor) -> Tensor:
    """(N, 1, ...) of a batch-1 program to (N, ...)."""
    is_unit = value.dim() > 2 and value.shape[1] == 1
    return value.squeeze(1) if is_unit else value


def check_outputs(outputs: Mapping[str, Tensor], count: int) -> None:
    """Check that outputs of ``count`` samples run as one are (count, ...).

    Raises:
        ProgramError: If an output is not; samples cannot be told apart.
    """
    for name, value in outputs.items():
        if value.dim() == 0 or value.shape[0] != count:
            raise ProgramError(
                f'output {name!r} has shape {tuple(value.shape)} for a batch '
                f'of {count}; its first dimension must count the samples'
            )


class LoadedProgram(ABC):
    """A Core ML model ready to predict.

    Attributes:
        program (Program): What was read from disk.
        overflows (dict[str, int]): Operation name to the number of values
            that became infinite in it, summed since loading or ``reset()``;
            only operations that overflowed. Empty in ``'fp32'``.
        ranges (dict[str, float]): Operation name to the largest ``|value|``
            of its results so far, if asked for.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.overflows: dict[str, int] = {}
        self.ranges: dict[str, float] = {}
        if not program.inputs:
            raise ProgramError(f'{program.path} has no inputs')

    @property
    def input_name(self) -> str:
        """Name of the first input."""
        return self.program.inputs[0].name

    @property
    def image_size(self) -> Optional[tuple[int, int]]:
        """Default (H, W) of the first input, None if not (1, C, H, W)."""
        shape = self.program.inputs[0].shape
        return (shape[2], shape[3]) if len(shape) == 4 else None

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (H, W) the first input lists, the default first."""
        shapes = self.program.inputs[0].shapes
        sizes = [(s[2], s[3]) for s in shapes if len(s) == 4]
        return tuple(dict.fromkeys(sizes))

    @property
    def color_layout(self) -> Optional[str]:
        """``'RGB'``, ``'BGR'``, ``'GRAYSCALE'``, ...; None for a tensor."""
        return self.program.inputs[0].color_layout

    @property
    def classes(self) -> Optional[tuple[Any, ...]]:
        """Class labels of a classifier, else None."""
        return self.program.classes

    def reset(self) -> None:
        """Forget recorded overflows and ranges."""
        self.overflows, self.ranges = {}, {}

    @abstractmethod
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run one input, as Core ML does.

        Args:
            inputs (Mapping[str, Any]): Input name to a value of an allowed
                shape (``Feature.shapes``). For an image: a PIL image
                (converted to the layout the model wants), a uint8 array
                (H, W, 3) in RGB order or (H, W), or a tensor (1, C, H, W)
                with values 0..255 in the model's own channel order. For a
                tensor: an array or tensor; several samples in one where
                such a shape is declared.

        Returns:
            dict[str, Any]: For a classifier the label and the label to
            probability dictionary, under the names the file declares
            (``classLabel`` and ``classLabel_probs`` unless renamed); NumPy
            arrays for other outputs.

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """

    @torch.no_grad()
    def predict_batch(
        self, inputs: Mapping[str, Tensor], chunk_size: int = 32
    ) -> dict[str, Tensor]:
        """Run N samples of one size, in the batches the program takes.

        A program that declares batches of several samples gets them whole,
        the largest first; the rest are run as single samples.

        Args:
            inputs (Mapping[str, Tensor]): Input name to (N, C, H, W), or
                (N, *shape) for other inputs. Images: values 0..255 in the
                model's own channel order.
            chunk_size (int): Most samples computed at a time; fewer where
                memory is bounded (``memory_budget``).

        Returns:
            dict[str, Tensor]: Output name to a tensor (N, ...), without the
            program's own batch dimension of 1. For a classifier: under the
            probabilities' name (N, num_classes), in the order of
            ``classes``; under the label's name the index of the predicted
            class, int64 (N,).

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """
        self._check_names(inputs)
        if chunk_size < 1:
            raise ProgramError(f'chunk_size is {chunk_size}; allowed: >= 1')
        batch = {
            feature.name: samples(inputs[feature.name], feature) for feature in self.program.inputs
        }
        if self.program.classes is not None:
            # Classifiers of Core ML take one sample at a time.
            batch = {k: v._replace(together=frozenset()) for k, v in batch.items()}
        limit = min(chunk_size, self._most_at_once(batch))
        parts = [self._chunk(batch, c) for c in chunks(batch, limit)]
        return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}

    def _most_at_once(self, batch: Mapping[str, Samples]) -> int:
        """Samples of a batch that memory suffices for; at least 1."""
        return sys.maxsize

    @abstractmethod
    def _chunk(self, batch: Mapping[str, Samples], chunk: Chunk) -> dict[str, Tensor]:
        """Outputs (n, ...) of one chunk of a batch."""

    def _check_single(self, feature: Feature, shape: tuple[int, ...]) -> None:
        """Refuse what Core ML refuses: labels for several samples."""
        several = shape[:1] > (1,) and feature.allows((1, *shape[1:]))
        if several and self.program.classes is not None:
            raise ProgramError(
                f'{self.program.path} is a classifier, and classifiers of '
                f'Core ML take one sample at a time; given {shape}'
            )

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        wanted = [feature.name for feature in self.program.inputs]
        if not isinstance(inputs, Mapping) or set(inputs) != set(wanted):
            given = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ProgramError(
                f'inputs are {given}; the model takes a dictionary with {sorted(wanted)}'
            )
