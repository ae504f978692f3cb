"""What ``benchmark-latency`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...cli import check_fields, option


@dataclass(frozen=True)
class LatencyOptions:
    """A checked request; the arguments of ``tools/benchmark_latency.py``.

    Raises:
        SpecError: a value that cannot be run.
    """

    out: Path = option(  # noqa: RUF009
        Path('work_dirs/latency'),
        'folder of the exported networks; what is there is not exported again (default: '
        'work_dirs/latency)',
        type=Path,
        metavar='DIR',
    )
    features: Optional[Path] = option(  # noqa: RUF009
        None,
        'read the layers of all networks from this file instead of exporting them',
        type=Path,
        metavar='FILE',
    )
    write_features: Optional[Path] = option(  # noqa: RUF009
        None, 'write them', type=Path, metavar='FILE'
    )
    write_model: Optional[Path] = option(  # noqa: RUF009
        None,
        'write the fitted model, which the package has as neural_engine/latency/fitted.json',
        type=Path,
        metavar='FILE',
    )
    json: Optional[Path] = option(  # noqa: RUF009
        None, 'write everything that was computed', type=Path, metavar='FILE'
    )

    def __post_init__(self) -> None:
        check_fields(self)
