"""Execute a Core ML file, as saved on disk, with torch on any OS."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ...errors import ProgramError
from ..program.budget import Ledger, Meter, NeedsValuesError, memory_of, work_of
from ..program.graph import Feature, Program
from ..program.read import read_program
from .arithmetic import Arithmetic, arithmetic_of
from .engine.chips import DEFAULT_CHIP
from .executor import Executor, Stats
from .inputs import check_shape, to_tensor
from .loaded import LoadedProgram, Samples, at_least_1d

__all__ = ['LoadedProgram', 'ReferenceProgram', 'load_program']

_INTEGER = ('int32', 'int8')


def load_program(
    path: Union[str, os.PathLike[str]],
    arithmetic: str = 'fp32',
    backend: str = 'reference',
    compute_units: str = 'ALL',
    record_range: bool = False,
    device: Union[str, torch.device] = 'cpu',
    memory_budget: Optional[float] = None,
    work_budget: Optional[float] = None,
    chip: str = DEFAULT_CHIP,
) -> LoadedProgram:
    """Load a Core ML model for prediction.

    Args:
        path (str | PathLike): ``.mlpackage`` folder or ``.mlmodel`` file.
        arithmetic (str): ``'fp32'``: weights as stored, arithmetic in fp32. ``'fp16'``: in addition
            every result the program declares fp16 is rounded to fp16, sums inside an operation stay
            fp32, and overflow is counted in :attr:`LoadedProgram.overflows`. ``'ane'``: in addition
            operations with such results are computed as Apple's Neural Engine does it, as far as
            that is public: products become infinite from 2^15 on, tiles of four
            lanes are rounded, functions are tables of 33 knots, and there is no NaN. A ``.mlmodel``
            declares no types: in ``'fp16'`` nothing of it is rounded, in ``'ane'`` all of it is.
        backend (str): ``'reference'`` (torch, any OS) or ``'coreml'`` (Apple's runtime on macOS;
            takes none of the other options but ``compute_units``).
        compute_units (str): For ``'coreml'``: ``'ALL'``, ``'CPU_ONLY'``, ``'CPU_AND_GPU'`` or
            ``'CPU_AND_NE'``.
        record_range (bool): Record max ``|value|`` of every operation's result (before rounding) in
            :attr:`LoadedProgram.ranges`.
        device (str | torch.device): Where the reference backend computes.
        memory_budget (float | None): Most bytes that constants and values may take at a time
            (default: 2 GiB, or 10 times the file's bytes). Known from shapes, before anything is
            allocated; ``predict_batch`` computes fewer samples at a time where that is enough.
        work_budget (float | None): Most work of one prediction, in multiply-adds of a convolution
            (default: 1.2e11, or 1000 times the file's bytes). Known from shapes too; for inputs
            larger than the default ones it grows as they do.
        chip (str): For ``'ane'``: the generation, ``'A13'`` to ``'A18'`` or ``'M1'`` to ``'M5'``.

    Returns:
        LoadedProgram: Has ``predict`` and ``predict_batch``.

    Raises:
        ProgramError: If the file cannot be read, an operation is not implemented or fails, results
            have other shapes than the file declares, a budget does not suffice, or an argument has
            none of the allowed values.
    """
    rules = arithmetic_of(arithmetic, chip)
    _check_choice('backend', backend, ('reference', 'coreml'))
    if backend == 'coreml':
        from .apple import NativeProgram

        return NativeProgram(read_program(path, memory_budget), compute_units)
    program, place = read_program(path, memory_budget), torch.device(device)
    return ReferenceProgram(program, rules, record_range, place, memory_budget, work_budget)


def _check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ProgramError(f'{what} is {value!r}; allowed: {", ".join(allowed)}')


class ReferenceProgram(LoadedProgram):
    """The torch implementation; see :func:`load_program`."""

    def __init__(
        self,
        program: Program,
        arithmetic: Union[str, Arithmetic],
        record_range: bool,
        device: torch.device,
        memory_budget: Optional[float] = None,
        work_budget: Optional[float] = None,
    ) -> None:
        super().__init__(program)
        self._arithmetic = arithmetic_of(arithmetic) if isinstance(arithmetic, str) else arithmetic
        self.arithmetic = self._arithmetic.name_for(program.format)
        self.chip = self._arithmetic.chip
        self._device = device
        self._ledger = Ledger(memory_of(program.path) if memory_budget is None else memory_budget)
        self._work = work_of(program.path) if work_budget is None else work_budget
        self._run = Executor(program, self._arithmetic, record_range, device, self._ledger)
        #: Shapes of the inputs to the bytes that values take at most; None where shapes depend on
        #: the numbers.
        self._peaks: dict[tuple[tuple[int, ...], ...], Optional[int]] = {}
        shapes = tuple(feature.shape for feature in program.inputs)
        if all(shape and min(shape) > 0 for shape in shapes):
            self._peak(shapes)

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(inputs)
        sample = {
            feature.name: self._sample(inputs[feature.name], feature)
            for feature in self.program.inputs
        }
        outputs = self._watched(self._metered(sample), sample)
        return {name: self._present(name, value) for name, value in outputs.items()}

    def _run_whole(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ready = self._ready(inputs)
        return self._watched(self._metered(ready), ready)

    def _run_each(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(next(iter(rows.values()))) == 1:
            # One sample needs no vmap, which costs about 10 us an operation.
            return super()._run_each(rows)
        return self._watched(torch.vmap(self._run), self._ready(rows))

    def _ready(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f.name: self._cast(inputs[f.name], f) for f in self.program.inputs}

    def _most_at_once(self, batch: Mapping[str, Samples]) -> int:
        peak = self._peak(tuple(batch[f.name].alone for f in self.program.inputs))
        left = self._ledger.limit - self._ledger.held
        return max(1, int(left // peak)) if peak else 1

    def _metered(self, inputs: Mapping[str, Tensor]) -> Callable[..., Any]:
        """What runs inputs of this size; refuses what takes too much."""
        shapes = tuple(tuple(inputs[f.name].shape) for f in self.program.inputs)
        return self._run_counting if self._peak(shapes) is None else self._run

    def _run_counting(self, inputs: Mapping[str, Tensor], count: bool = False) -> Any:
        """Run while every step is counted, just before it is computed."""
        shapes = [tuple(value.shape) for value in inputs.values()]
        work = self._work * self._growth(shapes)
        with Meter(self._ledger, work, execute=True) as meter:
            return self._run(inputs, count, meter)

    def _peak(self, shapes: tuple[tuple[int, ...], ...]) -> Optional[int]:
        """Bytes that values take; None if that depends on the numbers.

        Raises:
            ProgramError: they, or the work, are beyond the budget.
        """
        if shapes not in self._peaks:
            self._peaks[shapes] = self._measured(shapes)
        return self._peaks[shapes]

    def _growth(self, shapes: Iterable[tuple[int, ...]]) -> float:
        """How much larger than the default ones inputs are; at least 1."""
        given = sum(map(math.prod, shapes))
        default = sum(math.prod(f.shape) for f in self.program.inputs)
        return max(1.0, given / max(1, default))

    def _measured(self, shapes: tuple[tuple[int, ...], ...]) -> Optional[int]:
        for feature, shape in zip(self.program.inputs, shapes):
            # torch has no tensor of such a size to be counted.
            self._ledger.check(4 * math.prod(shape), f'the input {feature.name!r}')
        meter = Meter(self._ledger, self._work * self._growth(shapes))
        inputs = {
            f.name: torch.empty(shape, device='meta', dtype=_type(f))
            for f, shape in zip(self.program.inputs, shapes)
        }
        meter.keep(inputs.values())
        try:
            with torch.no_grad(), meter:
                self._run(inputs, meter=meter)
        except NeedsValuesError:
            return None
        return max(meter.peak, meter.live)

    def _watched(self, run: Callable[..., Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run, and once more to count if something overflowed."""
        outputs, stats = run(inputs)
        if not all(v.isfinite().all() for v in stats['check'].values()):
            outputs, stats = run(inputs, count=True)
        self._record(stats)
        return dict(outputs)

    def _sample(self, value: Any, feature: Feature) -> Tensor:
        if feature.kind == 'image':
            return self._cast(to_tensor(value, feature), feature)
        if not isinstance(value, (Tensor, np.ndarray)):
            raise ProgramError(
                f'input {feature.name!r} is a {type(value).__name__}; '
                f'allowed: array or tensor of shape {feature.allowed}'
            )
        tensor = torch.as_tensor(value)
        check_shape(feature, tuple(tensor.shape))
        self._check_single(feature, tuple(tensor.shape))
        return self._cast(tensor, feature)

    def _cast(self, value: Tensor, feature: Feature) -> Tensor:
        tensor = value.to(self._device, _type(feature))
        return self._arithmetic.given(tensor, feature, self.program.format)

    def _present(self, name: str, value: Tensor) -> Any:
        """One output in the form Core ML returns it."""
        classes = self.program.classes or ()
        if name == self.program.predicted_feature_name:
            return classes[int(value)]
        if name == self.program.predicted_probabilities_name:
            return dict(zip(classes, value.tolist()))
        return at_least_1d(value, ()).cpu().numpy()

    def _record(self, stats: Stats) -> None:
        for name, count in stats['overflows'].items():
            total = int(count.sum())
            if total:
                self.overflows[name] = self.overflows.get(name, 0) + total
        for name, peak in stats['ranges'].items():
            self.ranges[name] = max(self.ranges.get(name, 0.0), float(peak.max()))


def _type(feature: Feature) -> torch.dtype:
    return torch.int32 if feature.dtype in _INTEGER else torch.float32
