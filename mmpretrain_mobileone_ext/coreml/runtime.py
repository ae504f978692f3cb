"""Execute a Core ML file, as saved on disk, with torch on any OS."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Callable, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ..errors import ProgramError
from . import images
from .batching import batched, check_count, drop_unit
from .executor import Executor, Stats
from .graph import Feature, Program
from .program import read_program

_INTEGER = ('int32', 'int8')


def load_program(
    path: Union[str, os.PathLike[str]],
    arithmetic: str = 'fp32',
    backend: str = 'reference',
    compute_units: str = 'ALL',
    record_range: bool = False,
    device: Union[str, torch.device] = 'cpu',
) -> LoadedProgram:
    """Load a Core ML model for prediction.

    Args:
        path (str | PathLike): ``.mlpackage`` folder or ``.mlmodel`` file.
        arithmetic (str): ``'fp32'``: weights as stored, arithmetic in fp32.
            ``'fp16'``: in addition every result the program declares fp16
            is rounded to fp16, sums inside an operation stay fp32, and
            overflow is counted in :attr:`LoadedProgram.overflows`.
        backend (str): ``'reference'`` (torch, any OS) or ``'coreml'``
            (Apple's runtime on macOS; takes none of the other options
            but ``compute_units``).
        compute_units (str): For ``'coreml'``: ``'ALL'``, ``'CPU_ONLY'``,
            ``'CPU_AND_GPU'`` or ``'CPU_AND_NE'``.
        record_range (bool): Record max ``|value|`` of every operation's
            result (before rounding) in :attr:`LoadedProgram.ranges`.
        device (str | torch.device): Where the reference backend computes.

    Returns:
        LoadedProgram: Has ``predict`` and ``predict_batch``.

    Raises:
        ProgramError: If the file cannot be read, an operation is not
            implemented, or an argument has none of the allowed values.
    """
    _check_choice('arithmetic', arithmetic, ('fp32', 'fp16'))
    _check_choice('backend', backend, ('reference', 'coreml'))
    if backend == 'coreml':
        from .native import NativeProgram

        return NativeProgram(read_program(path), compute_units)
    program, place = read_program(path), torch.device(device)
    return ReferenceProgram(program, arithmetic, record_range, place)


def _check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ProgramError(
            f'{what} is {value!r}; allowed: {", ".join(allowed)}'
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
        """(H, W) of the first input, None if it is not (1, C, H, W)."""
        shape = self.program.inputs[0].shape
        return (shape[2], shape[3]) if len(shape) == 4 else None

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
        """Run one sample, as Core ML does.

        Args:
            inputs (Mapping[str, Any]): Input name to a value. For an image:
                a PIL image (converted to the layout the model wants), a
                uint8 array (H, W, 3) in RGB order or (H, W), or a tensor
                (1, C, H, W) with values 0..255 in the model's own channel
                order. For a tensor: an array or tensor of the declared
                shape.

        Returns:
            dict[str, Any]: For a classifier the label and the label to
            probability dictionary, under the names the file declares
            (``classLabel`` and ``classLabel_probs`` unless renamed); NumPy
            arrays for other outputs.

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """

    @abstractmethod
    def predict_batch(
        self, inputs: Mapping[str, Tensor], chunk_size: int = 32
    ) -> dict[str, Tensor]:
        """Run N samples through the batch-1 program.

        Args:
            inputs (Mapping[str, Tensor]): Input name to (N, C, H, W), or
                (N, *shape) for other inputs. Images: values 0..255 in the
                model's own channel order.
            chunk_size (int): Samples computed at a time.

        Returns:
            dict[str, Tensor]: Output name to a tensor (N, ...), without the
            program's own batch dimension of 1. For a classifier: under the
            probabilities' name (N, num_classes), in the order of
            ``classes``; under the label's name the index of the predicted
            class, int64 (N,).

        Raises:
            ProgramError: If an input is missing, unknown or does not fit.
        """

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


class ReferenceProgram(LoadedProgram):
    """The torch implementation; see :func:`load_program`."""

    def __init__(
        self,
        program: Program,
        arithmetic: str,
        record_range: bool,
        device: torch.device,
    ) -> None:
        super().__init__(program)
        self._half = arithmetic == 'fp16'
        self._device = device
        self._run = Executor(program, self._half, record_range, device)

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(inputs)
        sample = {
            feature.name: self._sample(inputs[feature.name], feature)
            for feature in self.program.inputs
        }
        outputs = self._watched(self._run, sample)
        return {
            name: self._present(name, value)
            for name, value in outputs.items()
        }

    @torch.no_grad()
    def predict_batch(
        self, inputs: Mapping[str, Tensor], chunk_size: int = 32
    ) -> dict[str, Tensor]:
        self._check_names(inputs)
        if chunk_size < 1:
            raise ProgramError(f'chunk_size is {chunk_size}; allowed: >= 1')
        batch = {
            feature.name: batched(inputs[feature.name], feature)
            for feature in self.program.inputs
        }
        count = check_count(batch)
        parts = [
            self._chunk({k: v[i : i + chunk_size] for k, v in batch.items()})
            for i in range(0, count, chunk_size)
        ]
        return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}

    def _chunk(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ready = {
            feature.name: self._cast(batch[feature.name], feature)
            for feature in self.program.inputs
        }
        if len(next(iter(ready.values()))) == 1:
            # One sample needs no vmap, which costs about 10 us an operation.
            alone = {name: value[0] for name, value in ready.items()}
            outputs = {
                name: value.unsqueeze(0)
                for name, value in self._watched(self._run, alone).items()
            }
        else:
            outputs = self._watched(torch.vmap(self._run), ready)
        return {name: drop_unit(value) for name, value in outputs.items()}

    def _watched(
        self, run: Callable[..., Any], inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Run, and once more to count if something overflowed."""
        outputs, stats = run(inputs)
        if not all(v.isfinite().all() for v in stats['check'].values()):
            outputs, stats = run(inputs, count=True)
        self._record(stats)
        return dict(outputs)

    def _sample(self, value: Any, feature: Feature) -> Tensor:
        if feature.kind == 'image':
            return self._cast(images.to_tensor(value, feature), feature)
        if not isinstance(value, (Tensor, np.ndarray)):
            raise ProgramError(
                f'input {feature.name!r} is a {type(value).__name__}; '
                f'allowed: array or tensor of shape {feature.shape}'
            )
        tensor = torch.as_tensor(value)
        if tuple(tensor.shape) != feature.shape:
            raise ProgramError(
                f'input {feature.name!r} has shape {tuple(tensor.shape)}; '
                f'the model takes exactly {feature.shape}'
            )
        return self._cast(tensor, feature)

    def _cast(self, value: Tensor, feature: Feature) -> Tensor:
        if feature.dtype in _INTEGER:
            return value.to(self._device, torch.int32)
        tensor = value.to(self._device, torch.float32)
        if self._half and feature.dtype == 'fp16':
            return tensor.half().float()
        return tensor

    def _present(self, name: str, value: Tensor) -> Any:
        """One output in the form Core ML returns it."""
        classes = self.program.classes or ()
        if name == self.program.predicted_feature_name:
            return classes[int(value)]
        if name == self.program.predicted_probabilities_name:
            return dict(zip(classes, value.tolist()))
        return value.cpu().numpy()

    def _record(self, stats: Stats) -> None:
        for name, count in stats['overflows'].items():
            total = int(count.sum())
            if total:
                self.overflows[name] = self.overflows.get(name, 0) + total
        for name, peak in stats['ranges'].items():
            self.ranges[name] = max(
                self.ranges.get(name, 0.0), float(peak.max())
            )
