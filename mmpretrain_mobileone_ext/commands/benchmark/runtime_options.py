"""What ``benchmark-runtime`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...errors import SpecError
from ...models.spec import PRESETS
from ..cli import check_fields, option


@dataclass(frozen=True)
class RuntimeOptions:
    """A checked request; the arguments of ``tools/benchmark_runtime.py``.

    Raises:
        SpecError: a value that cannot be run.
    """

    arch: str = option('s0', 's0 ... s4 (default: s0)', allowed=PRESETS, metavar='X')
    batch: tuple[int, ...] = option(
        (1, 8, 32), 'images at a time (default: 1 8 32)', type=int, nargs='+', metavar='N'
    )
    size: int = option(224, 'height and width in pixels', least=32)
    threads: int = option(2, "torch's threads", least=1)
    rounds: int = option(9, 'timed runs of each form', least=1)
    warmup: int = option(2, 'rounds before them', least=0)
    images: int = option(100, 'images of the timed export, 0 for none', least=0)
    json: Optional[Path] = option(  # noqa: RUF009
        None, 'write everything that was measured', type=Path, metavar='FILE'
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.batch or min(self.batch) < 1:
            raise SpecError(
                f'batch={list(self.batch)}; at least one number, each at least 1, is needed'
            )
