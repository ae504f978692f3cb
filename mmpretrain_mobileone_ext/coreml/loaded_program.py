"""What a program that is ready to predict offers, whatever runs it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor

from ..errors import ProgramError
from .batching import Chunk, Samples, chunks, samples
from .graph import Feature, Program


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
            feature.name: samples(inputs[feature.name], feature)
            for feature in self.program.inputs
        }
        if self.program.classes is not None:
            # Classifiers of Core ML take one sample at a time.
            batch = {k: v._replace(together=frozenset())
                     for k, v in batch.items()}
        limit = min(chunk_size, self._most_at_once(batch))
        parts = [self._chunk(batch, c) for c in chunks(batch, limit)]
        return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}

    def _most_at_once(self, batch: Mapping[str, Samples]) -> int:
        """Samples of a batch that memory suffices for; at least 1."""
        return sys.maxsize

    @abstractmethod
    def _chunk(
        self, batch: Mapping[str, Samples], chunk: Chunk
    ) -> dict[str, Tensor]:
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
            given = (
                sorted(inputs)
                if isinstance(inputs, Mapping)
                else type(inputs).__name__
            )
            raise ProgramError(
                f'inputs are {given}; the model takes a dictionary with '
                f'{sorted(wanted)}'
            )
