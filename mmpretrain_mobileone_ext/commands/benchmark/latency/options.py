"""What ``benchmark-latency`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ....errors import SpecError
from ...cli import check_fields, option


@dataclass(frozen=True)
class LatencyOptions:
    """A checked request; the arguments of ``tools/benchmark_latency.py``.

    Raises:
        SpecError: a value that cannot be run.
    """

    export: Optional[Path] = option(  # noqa: RUF009
        None,
        'build and export all networks into this folder, where what is there is kept (default: '
        'read their layers from a file that was made so)',
        type=Path,
        metavar='DIR',
    )
    features: Optional[Path] = option(  # noqa: RUF009
        None, "the file (default: the package's)", type=Path, metavar='FILE'
    )
    write_features: Optional[Path] = option(  # noqa: RUF009
        None, 'write the layers of all networks', type=Path, metavar='FILE'
    )
    write_model: Optional[Path] = option(  # noqa: RUF009
        None,
        'write the fitted model, which the package has as coreml/neural_engine/latency/fitted.json',
        type=Path,
        metavar='FILE',
    )
    json: Optional[Path] = option(  # noqa: RUF009
        None, 'write everything that was computed', type=Path, metavar='FILE'
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.export and self.features:
            raise SpecError('--export makes what --features reads; give one of them')
