"""The input shapes a program is converted for: sizes and batches.

Core ML prepares the default shape, the first, when it loads the file; the
first prediction at another one takes longer.
"""
from __future__ import annotations

from typing import Any

from ..errors import ExportError
from .export_options import ExportOptions
from .preprocess import Preprocessing

Shape = tuple[int, int, int, int]
#: What coremltools documents for ``EnumeratedShapes``.
MAX_SHAPES = 128


def input_shapes(pre: Preprocessing,
                 options: ExportOptions) -> tuple[Shape, ...]:
    """Every shape (N, C, H, W) of the input, the default first.

    Each of ``batch_sizes`` goes with each size.

    Raises:
        ExportError: an image input with several images at a time, or more
            shapes than Core ML takes.
    """
    if options.input == 'image' and options.batch_sizes != (1, ):
        raise ExportError(
            f'batch_sizes is {options.batch_sizes}, but an image input takes '
            'one image at a time (apps batch them with '
            "MLArrayBatchProvider); give input='tensor' (--input tensor) or "
            'batch size 1')
    sizes = dict.fromkeys([pre.size, *options.extra_sizes])
    shapes = tuple((batch, pre.channels, *size)
                   for batch in options.batch_sizes for size in sizes)
    if len(shapes) > MAX_SHAPES:
        raise ExportError(
            f'{len(sizes)} sizes x {len(options.batch_sizes)} batch sizes '
            f'are {len(shapes)} shapes; Core ML takes {MAX_SHAPES} at most')
    return shapes


def is_classifier(options: ExportOptions) -> bool:
    """Whether the program can say a label.

    A classifier of Core ML takes one sample at a time: with a flexible batch
    it converts, and no device compiles it (apple/coremltools#2764). Several
    samples get their probabilities as one array (N, classes) instead.
    """
    return options.outputs == 'class' and options.batch_sizes == (1, )


def as_coremltools(ct: Any, shapes: tuple[Shape, ...]) -> Any:
    """The ``shape`` argument of an input type of coremltools."""
    if len(shapes) == 1:
        return shapes[0]
    return ct.EnumeratedShapes(list(shapes), default=shapes[0])
