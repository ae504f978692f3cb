"""Fit the model of time to a user's own device, by the JSON that its benchmarks wrote.

Few files say little: one gives a scale, some give floor and scale, and only many give all
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ....errors import SpecError
from ....utils.text import counted, shown
from ...program.read import read_program
from ...runtime.engine.chips import Chip
from ...swift.bench import BenchResult, read_bench_json
from ...swift.facts import digest
from .estimate import LatencyModel, bar_of
from .features import has_attention, layers_of
from .fit import Sample, fit_scale, leave_one_out
from .forms import count

#: Latencies for one parameter, before it is fitted.
_EACH = 3
_SUFFIX = '.mlpackage'
_TIMES = (1e-3, 1e6)  # ms; outside of it no benchmark worked


class Calibration(NamedTuple):
    """A model for one device, and what was done for it in a line."""

    model: LatencyModel
    words: str


def calibrate(model: LatencyModel, samples: Sequence[Sample], device: str) -> Calibration:
    """Fit to latencies of one device.

    Args:
        model: where to begin from, fitted to another device.
        samples: networks and their medians.
        device: as the system names it.

    Raises:
        SpecError: no network without attention.
    """
    # By place: files of several folders may have one name.
    used = [replace(s, name=str(i)) for i, s in enumerate(samples) if not s.has_attention]
    if not used:
        raise SpecError(
            f'nothing to calibrate with: none of the {len(samples)} networks is without attention'
        )
    form = model.form
    if len(used) >= _EACH * len(form.parameters):
        quality = leave_one_out(form, used)
        values, bar = quality.values, bar_of(quality, [s.name for s in used])
        what = f'all {len(form.parameters)} parameters fitted; the bounds are of these networks'
    else:
        values, what = fit_scale(form, model.values, used)
        # So few say little of a next network's error.
        what += (
            f'; so few do not tell the error: the bounds are at least those of the {model.device}'
        )
        bar = max(model.bar, *(abs(math.log(_ms(model, values, s) / s.ms)) for s in used))
    return Calibration(
        replace(
            model,
            values=dict(values),
            bar=bar,
            networks=len(used),
            source='benchmarks of a generated Swift package, medians',
            device=device,
            is_calibrated=True,
        ),
        f'calibrated to {device} by {counted(len(used), "network")}: {what}',
    )


def _ms(model: LatencyModel, values: Mapping[str, float], sample: Sample) -> float:
    return model.form.total_ms(sample.counted, values)


def read_samples(
    benches: Sequence[Path], models: Sequence[Path], chip: Chip
) -> tuple[list[Sample], str]:
    """Benchmarks with the files that they were made of.

    Args:
        benches: JSON files after ``bench.schema.json``.
        models: files that they may be of; so may be a ``NAME.mlpackage`` beside a benchmark of
            model NAME.
        chip: of the device, by which weights are read and channels filled up.

    Returns:
        tuple: networks by the median of their benchmarks' medians, and the device.

    Raises:
        ExportError: a benchmark is unreadable.
        ProgramError: a model is.
        SpecError: a benchmark of none of the files, of a simulator, a debug build or without the
            engine, of another device than the first, or of a model without a file name.
    """
    found = [read_bench_json(path) for path in benches]
    for bench in found:
        _check(bench, found[0])
    beside = [path for bench in found for path in _beside(bench)]
    files = [path for path in dict.fromkeys([*models, *beside]) if path.exists()]
    known = {digest(path): path for path in files}
    # A network that is measured twice is no second one.
    times: dict[Path, list[float]] = {}
    for bench in found:
        times.setdefault(_file(bench, known), []).append(bench.median_ms)
    return [_sample(path, median(ms), chip) for path, ms in times.items()], found[0].device


def _beside(bench: BenchResult) -> list[Path]:
    """Its model, where that lies beside it under its name."""
    try:
        path = bench.source.with_name(bench.model + _SUFFIX)
        return [path] if path.exists() else []
    except (OSError, ValueError) as error:
        raise SpecError(
            f'{bench.source}: a benchmark of a model {bench.model[:60]!r}, which is no file name'
        ) from error


def _check(bench: BenchResult, first: BenchResult) -> None:
    wrong = {
        'was made in a simulator': bench.simulator,
        'is of a debug build': bench.build == 'debug',
        f'ran with compute units {bench.compute_units}, without the engine': (
            bench.compute_units not in ('all', 'cpuAndNeuralEngine')
        ),
        f'is of {bench.device}, another device than {first.device} of {first.source.name}': (
            bench.device != first.device
        ),
        f'has a median of {bench.median_ms:g} ms': not _TIMES[0] <= bench.median_ms <= _TIMES[1],
    }
    why = next((words for words, is_so in wrong.items() if is_so), None)
    if why:
        raise SpecError(f'{bench.source}: {why}; it says nothing of the engine to calibrate')


def _file(bench: BenchResult, known: Mapping[str, Path]) -> Path:
    if bench.sha256 not in known:
        raise SpecError(
            f'{bench.source}: a benchmark of {bench.model!r}, which is none of the files; put its '
            f'{shown(bench.model)}{_SUFFIX} beside it'
        )
    return known[bench.sha256]


def _sample(path: Path, ms: float, chip: Chip) -> Sample:
    layers = layers_of(read_program(path), chip)
    return Sample(path.name, count(layers, chip), ms, has_attention(layers))
