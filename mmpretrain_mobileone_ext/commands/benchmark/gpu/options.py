"""What ``check-gpu`` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....errors import SpecError
from ....models.spec import PRESETS
from ...cli import check_fields, option
from ..training.options import DEVICES, check_shape


@dataclass(frozen=True)
class GpuOptions:
    """The arguments of ``tools/check_gpu.py``.

    Raises:
        SpecError: a value that cannot be run.
    """

    device: str = option(
        'cuda',
        f'{" or ".join(DEVICES)} (default: cuda; a CPU shows that the check itself runs)',
        allowed=DEVICES,
        metavar='X',
    )
    arch: tuple[str, ...] = option(
        tuple(PRESETS), 's0 ... s4 (default: all)', allowed=PRESETS, nargs='+', metavar='X'
    )
    batch: int = option(256, 'images a step; halved where memory does not suffice', least=1)
    size: int = option(224, 'their pixels', least=1)
    steps: int = option(10, 'timed steps of each form', least=1)
    warmup: int = option(3, 'steps before them', least=0)
    minutes: int = option(8, 'after which all ends; what did not fit is said', least=1)
    json: Path = option(  # noqa: RUF009
        Path('check_gpu.json'),
        'everything that was found, rewritten after each part (default: check_gpu.json)',
        type=Path,
        metavar='FILE',
    )
    markdown: Path = option(  # noqa: RUF009
        Path('check_gpu.md'),
        'its tables as Markdown (default: check_gpu.md)',
        type=Path,
        metavar='FILE',
    )

    def __post_init__(self):
        if not self.arch:
            raise SpecError('arch is empty')
        check_fields(self)
        check_shape(self.batch, self.size)
