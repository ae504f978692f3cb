"""Read the JSON that the benchmark of a generated Swift package writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from ...errors import ExportError
from ...utils.text import one_line

#: Its copy lies in every generated package.
SCHEMA = Path(__file__).with_name('bench.schema.json')
_ORDER = ('min_ms', 'median_ms', 'p90_ms', 'p99_ms', 'max_ms')
_INSTALL = "pip install 'jsonschema>=4'"


@dataclass(frozen=True)
class BenchResult:
    """A model measured on a device; ms, MiB and images per second.

    Attributes:
        source: the file that was read.
        model: file name of the model without suffix.
        sha256: of the model, as ``ModelInfo.sha256`` in the package.
        precision: as the exporter wrote it.
        device: as the system names it, e.g. 'iPhone15,2'.
        system: e.g. 'iOS 17.5.1'.
        simulator: its figures say nothing of a device.
        build: 'release' or 'debug'.
        compute_units: 'all', 'cpuOnly', 'cpuAndGPU', 'cpuAndNeuralEngine'.
        warmup, iterations: predictions before and in the measurement.
        compile_ms: None where a compiled model was there.
        load_ms, first_prediction_ms: the rest of the cold start.
        min_ms, median_ms, mean_ms, p90_ms, p99_ms, max_ms: of a prediction.
        throughput: images per second.
        footprint_mib: physical footprint after the run, None if unknown.
        thermal: state before and after, e.g. ('nominal', 'fair').
        plan: operations by preferred device ('cpu', 'gpu', 'neural_engine', 'none'), None where the
            system does not tell.
    """

    source: Path
    model: str
    sha256: str
    precision: str
    device: str
    system: str
    simulator: bool
    build: str
    compute_units: str
    warmup: int
    iterations: int
    compile_ms: Optional[float]
    load_ms: float
    first_prediction_ms: float
    min_ms: float
    median_ms: float
    mean_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    throughput: float
    footprint_mib: Optional[float]
    thermal: tuple[str, str]
    plan: Optional[dict[str, int]]


def read_bench_json(path: Union[str, os.PathLike[str]]) -> BenchResult:
    """Read and check a benchmark's JSON.

    Raises:
        ExportError: unreadable, not after ``bench.schema.json``, a number that is not finite, or
            figures that contradict each other; also where jsonschema is missing.
    """
    source = Path(path).expanduser()
    try:
        text = source.read_text(encoding='utf-8')
        found = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f'{source}: cannot read the benchmark: {one_line(error)}') from error
    _check_schema(found, source)
    _check_figures(found, source)
    return _result(found, source)


def _finite(text: str) -> float:
    """Python's JSON has NaN and Infinity, and overflows to it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f'{text[:20]} is no finite number')
    return value


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


def _check_schema(found: Any, source: Path) -> None:
    try:
        import jsonschema
    except ImportError as error:
        raise ExportError(
            f'cannot import jsonschema ({error}); benchmarks need it: {_INSTALL}'
        ) from error
    schema = json.loads(SCHEMA.read_text(encoding='utf-8'))
    validator = jsonschema.Draft202012Validator(schema)
    wrong = jsonschema.exceptions.best_match(validator.iter_errors(found))
    if wrong is not None:
        where = '.'.join(map(str, wrong.absolute_path)) or 'the top level'
        raise ExportError(f'{source}: no benchmark after {SCHEMA.name}: {where}: {wrong.message}')


def _check_figures(found: Mapping[str, Any], source: Path) -> None:
    """What a schema cannot say."""
    times = [found['latency'][name] for name in _ORDER]
    if times != sorted(times):
        listed = ', '.join(f'{n}={t:g}' for n, t in zip(_ORDER, times))
        raise ExportError(f'{source}: the latencies are not in order: {listed}')
    # The loop around the predictions takes time as well, never less.
    fastest = 1000 / found['latency']['mean_ms'] if times[0] else None
    if fastest is not None and found['throughput'] > 1.01 * fastest:
        raise ExportError(
            f'{source}: throughput {found["throughput"]:g} images/s is more '
            f'than the mean latency allows ({fastest:g})'
        )


def _result(found: Mapping[str, Any], source: Path) -> BenchResult:
    model, device, cold = found['model'], found['device'], found['cold_start']
    plan = found.get('compute_plan')
    return BenchResult(
        source=source,
        model=model['name'],
        sha256=model['sha256'],
        precision=model['precision'],
        device=device['model'],
        system=f'{device["system"]} {device["system_version"]}',
        simulator=device['simulator'],
        build=found['build'],
        compute_units=found['compute_units'],
        warmup=found['warmup'],
        iterations=found['iterations'],
        compile_ms=cold.get('compile_ms'),
        load_ms=cold['load_ms'],
        first_prediction_ms=cold['first_prediction_ms'],
        **found['latency'],
        throughput=found['throughput'],
        footprint_mib=found['footprint'].get('after_run_mib'),
        thermal=(found['thermal']['before'], found['thermal']['after']),
        plan=None if plan is None else dict(plan),
    )
