"""Compare a saved program with its network at any of its input shapes."""
from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..parity import Parity
from .convert import INPUT, PROBABILITIES
from .export_data import TestSplit, choose_images
from .loaded_program import LoadedProgram
from .output_parity import worst
from .shapes import Shape

_IMAGES = 6


def compare_at(loaded: LoadedProgram, network: Network, shape: Shape,
               flips: bool) -> Parity:
    """Run program and network on at least six images of seeded noise.

    Every figure is that of the worst output.

    Args:
        loaded: the program.
        network: images (N, C, H, W), uint8 in data order, to the outputs.
        shape: (N, C, H, W) as declared; N images go in as one input.
        flips: whether the channels are reversed for the program.

    Raises:
        ProgramError: the program does not run at this shape.
        ParityError: the outputs differ in shape.
    """
    count = shape[0]
    noise = next(choose_images(TestSplit(), 'none', (1, *shape[1:])).chunks())
    wanted_images = count * -(-_IMAGES // count)
    copies = -(-wanted_images // len(noise[0]))
    images = noise[0].repeat(copies, 1, 1, 1)[:wanted_images]
    pixels = (images.flip(1) if flips else images).float()
    wanted = network(images)
    found = loaded.predict_batch(
        {INPUT: pixels}, chunk_size=count if count > 1 else _IMAGES)
    return worst(wanted, {key: found[key] for key in wanted},
                 classes=PROBABILITIES in wanted)
