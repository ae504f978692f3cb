"""Time the reference runtime against torch, in turns in one process."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..coreml.convert import INPUT, PROBABILITIES
from ..coreml.export import export_coreml
from ..coreml.export_model import prepare
from ..coreml.preprocess import Preprocessing, read_preprocessing
from ..coreml.runtime import LoadedProgram, load_program
from ..parity import TOLERANCES, compare
from .runtime_network import CLASSES, random_images
from .runtime_results import RuntimeCase, RuntimeOptions

Forms = Mapping[str, Callable[[Tensor], Tensor]]
Advance = Callable[[int], Any]


def make_forms(model: nn.Module, size: int, folder: Path) -> Forms:
    """Every form as a function of pixels (N, 3, S, S) to probabilities.

    Args:
        model: classifier in eval mode.
        folder: where files are exported to.
    """
    pre = read_preprocessing(
        model.get_submodule('data_preprocessor'), 3, (size, size), 'BGR')
    forms = {'torch': _folded(model, pre)}
    for precision in ('fp32', 'fp16'):
        path = export_coreml(
            model, out=folder / f'{precision}.mlpackage', image_size=size,
            precision=precision, classes=[str(i) for i in range(CLASSES)])
        forms[precision] = _runtime(load_program(path, precision))
    return forms


def _folded(model: nn.Module,
            pre: Preprocessing) -> Callable[[Tensor], Tensor]:
    """The very graph that is exported, mean and softmax included."""
    graph = prepare(model, pre).graph(pre.mean)

    def run(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return graph(pixels)

    return run


def _runtime(program: LoadedProgram) -> Callable[[Tensor], Tensor]:

    def run(pixels: Tensor) -> Tensor:
        found = program.predict_batch({INPUT: pixels}, chunk_size=len(pixels))
        return found[PROBABILITIES]

    return run


def rounds_of_case(options: RuntimeOptions) -> int:
    """How often :func:`measure_case` reports progress."""
    return options.warmup + options.rounds


def measure_case(forms: Forms, options: RuntimeOptions, batch: int,
                 advance: Advance = lambda count: None) -> RuntimeCase:
    """Time every form on one batch, round by round in turns.

    Raises:
        ParityError: a form predicts otherwise, so that its time says
            nothing.
    """
    pixels = random_images(batch, options.size, seed=1)
    wanted = forms['torch'](pixels)
    for name, form in forms.items():
        bound = TOLERANCES['export-fp32' if name == 'fp32' else 'export-fp16']
        compare(wanted, form(pixels), classes=True).require(
            bound, f'{name} differs from torch')
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(options.warmup + options.rounds):
        for name in _rotated(list(forms), turn):
            elapsed = _timed(forms[name], pixels)
            if turn >= options.warmup:
                times[name].append(elapsed)
        advance(1)
    return RuntimeCase(batch, {k: tuple(v) for k, v in times.items()})


def _rotated(names: list[str], turn: int) -> list[str]:
    turn %= len(names)
    return [*names[turn:], *names[:turn]]


def _timed(form: Callable[[Tensor], Tensor], pixels: Tensor) -> float:
    """In ms."""
    start = time.perf_counter()
    form(pixels)
    return 1000 * (time.perf_counter() - start)
