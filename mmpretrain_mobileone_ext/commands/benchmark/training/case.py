"""All forms at one shape, in turns: times, memory, exactness."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from ....errors import SpecError
from ....utils.explain import is_out_of_memory
from ....utils.text import one_line
from .. import in_turns
from .candidates import (
    COMPILED,
    MULTI_BRANCH,
    Candidate,
    build_candidate,
    build_candidates,
    reference_state,
)
from .options import BenchmarkOptions, check_shape
from .results import ArchExactness, Case, Cost, Exactness
from .step import Batch, Lap, TrainingStep, make_batch, peak_growth, saved_bytes, weighted_sum

OUT_OF_MEMORY = 'out of memory'
NOT_COMPILED = 'does not compile'
#: More than what one case can ask of dynamo, which runs eagerly, and says so to nobody, past its
#: limit.
_RECOMPILATIONS = 64
EXACTNESS_NOTE = (
    "fp64: against MMPretrain's branches, max |a - b| / max |b| of a tensor, "
    'the worst tensor and seed; gradient error: |g - g64| / |g64| over all '
    'parameters together, median of the seeds'
)
Tensors = dict[str, Tensor]


@dataclass
class Trial:
    """A form being measured; after a failure it is left out."""

    step: TrainingStep
    first_ms: Optional[float] = None
    laps: list[Lap] = field(default_factory=list)
    saved: Optional[int] = None
    peak: Optional[int] = None
    failure: Optional[str] = None

    def attempt(self, action: Callable[[Trial], Any]) -> None:
        """Do something with the form unless it failed before."""
        if self.failure:
            return
        try:
            action(self)
        except Exception as error:
            self.failure = _failure(error)
            if self.failure is None:
                raise
        if self.failure:  # after the traceback let go of the tensors
            self.step.clear()
            gc.collect()

    def start(self) -> None:
        """The first step, which compiles and chooses."""
        lap = self.step.run()
        self.first_ms = lap.forward_ms + lap.backward_ms

    def measure_peak(self) -> None:
        self.peak = peak_growth(self.step)

    def measure_saved(self) -> None:
        self.saved = saved_bytes(self.step)

    def cost(self) -> Cost:
        """All that was measured."""
        return Cost(
            form=self.step.candidate.form,
            first_ms=self.first_ms,
            forward_ms=tuple(lap.forward_ms for lap in self.laps),
            backward_ms=tuple(lap.backward_ms for lap in self.laps),
            saved_bytes=self.saved,
            peak_bytes=self.peak,
            failure=self.failure,
        )


def _failure(error: Exception) -> Optional[str]:
    """Why a form cannot be measured, None for a bug."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, TorchDynamoException):
        return f'{NOT_COMPILED}: {one_line(error)}'
    return None


def steps_of_case(options: BenchmarkOptions, forms: Sequence[str], batch: int, size: int) -> int:
    """How often :func:`measure_case` reports progress."""
    # The first step, and two for memory.
    return len(forms) * (1 + options.warmup + options.steps_for(batch, size) + 2)


def measure_case(
    options: BenchmarkOptions,
    forms: Sequence[str],
    arch: str,
    batch: int,
    size: int,
    advance: Callable[[int], None] = lambda count: None,
    together: bool = False,
) -> Case:
    """Measure every form at one shape.

    Forms take turns step by step, each round beginning with the next one, so that noise hits all
    alike. Memory comes last: watching autograd may make a compiled form compile again.

    Args:
        options: threads are the caller's to set.
        forms: keys of ``FORMS``.
        arch, batch, size: the case.
        advance: called with 1 after every step.
        together: leave the case out where memory does not suffice for the first step of every form.
    """
    with _compiler_from_scratch(any(form.endswith(COMPILED) for form in forms)):
        return _measure_case(options, forms, Case(arch, batch, size), advance, together)


@contextmanager
def _compiler_from_scratch(needed: bool) -> Iterator[None]:
    """Let nothing that was compiled before, and no limit, change how forms are compiled."""
    if not needed:
        yield
        return
    from torch._dynamo import config

    torch._dynamo.reset()
    # torch < 2.7 names it otherwise.
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    try:
        with config.patch({name: _RECOMPILATIONS}):
            yield
    finally:
        torch._dynamo.reset()


def _measure_case(
    options: BenchmarkOptions,
    forms: Sequence[str],
    case: Case,
    advance: Callable[[int], None],
    together: bool,
) -> Case:
    layout = options.channels_last
    candidates = build_candidates(forms, case.arch, options.device, layout)
    data = make_batch(candidates[0], case.batch, case.size, 0, options.device, layout)
    trials = [Trial(TrainingStep(c, data, options.amp)) for c in candidates]

    def everyone(action: Callable[[Trial], Any], rounds: int = 1) -> None:
        for trial in in_turns(trials, rounds):
            trial.attempt(action)
            advance(1)

    everyone(Trial.start)
    if together and any(t.failure == OUT_OF_MEMORY for t in trials):
        return replace(case, skipped=OUT_OF_MEMORY)
    everyone(lambda t: t.step.run(), options.warmup)
    gc.collect()
    everyone(lambda t: t.laps.append(t.step.run()), options.steps_for(case.batch, case.size))
    everyone(Trial.measure_peak)
    everyone(Trial.measure_saved)
    return replace(case, costs=tuple(t.cost() for t in trials))


def measure_fitting(measure: Callable[[int], Case], batch: int) -> Case:
    """Halve a batch, for all forms alike, until memory suffices for it.

    Args:
        measure: measures a batch; ``skipped`` is ``OUT_OF_MEMORY`` where memory does not suffice.
        batch: the one asked for.

    Returns:
        The case with the largest batch that fits, or one that says that none does.
    """
    taken = batch
    while True:
        case = measure(taken)
        if case.skipped != OUT_OF_MEMORY:
            return replace(case, asked=batch)
        taken //= 2
        try:
            check_shape(taken, case.size)
        except SpecError:
            return replace(case, asked=batch, skipped=f'{OUT_OF_MEMORY}, {case.batch} images too')
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Outcome:
    """Everything that one training step computes, detached."""

    output: Tensor
    input_gradient: Tensor
    gradients: Tensors
    statistics: Tensors


def training_outcome(candidate: Candidate, data: Batch, amp: Optional[str] = None) -> Outcome:
    """Take one step; the candidate's running statistics move on."""
    images = data.images.clone().requires_grad_()
    step = TrainingStep(candidate, Batch(images, data.probe), amp)
    step.clear()
    output = step.last_map()
    weighted_sum(output, data.probe).backward()
    assert images.grad is not None
    gradients = {name: _gradient(p) for name, p in candidate.net.named_parameters()}
    step.clear()
    statistics = {n: b.clone() for n, b in candidate.net.named_buffers()}
    return Outcome(output.detach(), images.grad, gradients, statistics)


def _gradient(parameter: Tensor) -> Tensor:
    grad = parameter.grad
    return torch.zeros_like(parameter) if grad is None else grad


def agreement(outcome: Outcome, reference: Outcome) -> dict[str, float]:
    """Worst max-relative differences, by the fields of ``Exactness``."""
    return dict(
        output=_worst([(outcome.output, reference.output)]),
        input_gradient=_worst([(outcome.input_gradient, reference.input_gradient)]),
        gradients=_worst(_pairs(outcome.gradients, reference.gradients)),
        statistics=_worst(_pairs(outcome.statistics, reference.statistics)),
    )


def gradient_error(gradients: Tensors, reference: Tensors) -> float:
    """Norm of the difference by the reference's, over all tensors."""
    pairs = _pairs(gradients, reference)
    difference = sum((a - b).square().sum() for a, b in pairs)
    scale = sum(b.square().sum() for _, b in pairs)
    return float(torch.as_tensor(difference / scale).sqrt())


def _pairs(given: Tensors, reference: Tensors) -> list[tuple[Tensor, Tensor]]:
    """Tensors of the same name in float64; the names must be the same."""
    if given.keys() != reference.keys():
        raise AssertionError(
            'forms with different parameters are compared: '
            f'{sorted(given.keys() ^ reference.keys())}'
        )
    return [(given[n].double(), b.double()) for n, b in reference.items()]


def _worst(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    # torch's max, unlike Python's, lets a NaN through.
    return float(torch.stack([_relative(a, b) for a, b in pairs]).max())


def _relative(a: Tensor, b: Tensor) -> Tensor:
    difference, scale = (a - b).abs().max(), b.abs().max()
    return difference / scale if scale > 0 else difference


@dataclass(frozen=True)
class _Trial:
    """One seed's weights, batch and reference outcome."""

    arch: str
    state: Tensors
    data: Batch
    reference: Outcome
    options: BenchmarkOptions

    def sample(self, form: str) -> dict[str, float]:
        """All measures of a form, by the fields of ``Exactness``."""
        double = training_outcome(self._built(form, torch.float64), self.data.to(torch.float64))
        found = agreement(double, self.reference)
        found['fp32_error'] = self._error(form, None)
        if self.options.amp:
            found['amp_error'] = self._error(form, self.options.amp)
        return found

    def _error(self, form: str, amp: Optional[str]) -> float:
        single = training_outcome(self._built(form, torch.float32), self.data, amp)
        return gradient_error(single.gradients, self.reference.gradients)

    def _built(self, form: str, dtype: torch.dtype) -> Candidate:
        layout = self.options.channels_last
        return build_candidate(form, self.arch, self.state, self.options.device, dtype, layout)


def _trial(options: BenchmarkOptions, arch: str, seed: int) -> _Trial:
    state = reference_state(arch, seed)
    device = options.device
    reference = build_candidate('mmpretrain', arch, state, device, torch.float64)
    shape = options.check_batch, options.check_size
    data = make_batch(reference, *shape, seed, device, options.channels_last)
    outcome = training_outcome(reference, data.to(torch.float64))
    return _Trial(arch, state, data, outcome, options)


def checked_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Those that should agree; the others compute something else."""
    return tuple(f for f in forms if f in MULTI_BRANCH)


def check_arch(
    options: BenchmarkOptions,
    forms: Sequence[str],
    arch: str,
    advance: Callable[[int], None] = lambda count: None,
) -> ArchExactness:
    """Measure how exact each multi-branch form is, over ``options.seeds``.

    Args:
        options: device, seeds, check_batch, check_size and amp are used.
        forms: keys of ``FORMS``; see :func:`checked_forms`.
        arch: 's0' ... 's4'.
        advance: called with 1 after every form and seed.
    """
    forms = checked_forms(forms)
    samples: dict[str, list[dict[str, float]]] = {f: [] for f in forms}
    failures: dict[str, str] = {}
    for seed in range(options.seeds):
        trial = _trial(options, arch, seed)
        for form in forms:
            _sample_into(samples[form], failures, trial, form)
            advance(1)
    rows = tuple(_row(form, samples[form], failures.get(form)) for form in forms)
    return ArchExactness(arch, options.check_batch, options.check_size, rows)


def _sample_into(
    samples: list[dict[str, float]], failures: dict[str, str], trial: _Trial, form: str
) -> None:
    if form in failures:
        return
    try:
        samples.append(trial.sample(form))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failures[form] = OUT_OF_MEMORY


def _row(form: str, samples: Sequence[dict[str, float]], failure: Optional[str]) -> Exactness:
    measures = {
        name: tuple(sample[name] for sample in samples) for name in (samples[0] if samples else ())
    }
    return Exactness(form, **measures, failure=failure)
