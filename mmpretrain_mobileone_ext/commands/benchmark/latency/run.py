"""``tools/benchmark_latency.py``: fit the model of time to published latencies, on files of the
very networks, and say how wrong it is on each when it never saw it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ....errors import MobileOneExtError
from ....neural_engine.latency.features import Layer, as_rows, from_rows
from ....neural_engine.latency.published import published
from ....utils.files import check_writable, write_json
from ....utils.machine import machine
from ....utils.text import PlainConsole, Steps, own_command
from ...console.benchmarks import latency_parser
from .networks import THIRTY, layers, network
from .options import LatencyOptions

Networks = Mapping[str, tuple[Layer, ...]]


def collect(folder: Path, steps: Steps) -> Networks:
    """Export every network that is not there yet, and read all.

    Raises:
        MobileOneExtError: one cannot be built or exported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [*published().ms, *THIRTY]
    found = {}
    with steps.step('export', total=len(names)) as advance:
        for name in names:
            found[name] = layers(network(name), folder)
            advance(1)
    return found


def read_features(path: Path) -> Networks:
    """What ``--write-features`` wrote.

    Raises:
        MobileOneExtError: unreadable, or not all of the networks.
    """
    try:
        found = json.loads(path.read_text('utf-8'))['networks']
        read = {name: from_rows(rows) for name, rows in found.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MobileOneExtError(f'{path}: no file of --write-features: {error}') from error
    missing = [name for name in (*published().ms, *THIRTY) if name not in read]
    if missing:
        raise MobileOneExtError(f'{path} lacks {", ".join(missing)}')
    return read


def write_features(path: Path, networks: Networks, command: Sequence[str]) -> Path:
    """Write the layers of all networks, a line each."""
    rows: dict[str, Any] = {name: as_rows(found) for name, found in networks.items()}
    return write_json(path, dict(command=command, networks=rows), indent=0)
