"""What a run of the runtime benchmark asks for and finds (no torch here)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Optional

from ..errors import SpecError
from ..spec import PRESETS

#: What is timed, for people; the first is what the others are divided by.
FORMS = {
    'torch': 'the folded network in eager torch, as it is exported',
    'fp32': 'reference runtime on the fp32 file',
    'fp16': 'reference runtime on the fp16 file, rounding to fp16',
}


@dataclass(frozen=True)
class RuntimeOptions:
    """A checked request; the arguments of ``tools/benchmark_runtime.py``.

    Attributes:
        arch: 's0' ... 's4'.
        batch: images at a time.
        size: their height and width in pixels.
        threads: torch's.
        rounds: timed rounds, in which every form runs once.
        warmup: rounds before them.
        images: images of the timed export; 0 for no export.
        json: file to write, or None.

    Raises:
        SpecError: a value that cannot be run.
    """
    arch: str = 's0'
    batch: tuple[int, ...] = (1, 8, 32)
    size: int = 224
    threads: int = 2
    rounds: int = 9
    warmup: int = 2
    images: int = 100
    json: Optional[Path] = None

    def __post_init__(self) -> None:
        if self.arch not in PRESETS:
            raise SpecError(
                f'arch {self.arch!r} is not one of {list(PRESETS)}')
        least = dict(size=32, threads=1, rounds=1, warmup=0, images=0)
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                raise SpecError(f'{name}={value}; at least {bound} is needed')
        if not self.batch or min(self.batch) < 1:
            raise SpecError(f'batch={list(self.batch)}; at least one number, '
                            'each at least 1, is needed')

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), 'json': str(self.json) if self.json else None}


@dataclass(frozen=True)
class RuntimeCase:
    """All forms at one batch.

    Attributes:
        batch: images at a time.
        times_ms: form to the time of each round, in ms.
    """
    batch: int
    times_ms: dict[str, tuple[float, ...]]

    def median_ms(self, form: str) -> float:
        return median(self.times_ms[form])

    def throughput(self, form: str) -> float:
        """Images a second, by the median."""
        return 1000 * self.batch / self.median_ms(form)

    def ratio(self, form: str) -> float:
        """Throughput by torch's: the median over rounds.

        What disturbed the machine in a round is in both times.
        """
        pairs = zip(self.times_ms['torch'], self.times_ms[form])
        return median(torch / ours for torch, ours in pairs)

    def document(self) -> dict[str, Any]:
        return {
            **asdict(self),
            'median_ms': {f: self.median_ms(f) for f in self.times_ms},
            'throughput_ratio': {f: self.ratio(f) for f in self.times_ms},
        }


@dataclass(frozen=True)
class ExportTime:
    """One run of the export tool.

    Attributes:
        images: of the verification.
        seconds: from its start to its end, Python's start included.
        steps: step to seconds, as the tool reports them.
    """
    images: int
    seconds: float
    steps: dict[str, float]


@dataclass
class RuntimeReport:
    """Everything of one run."""
    machine: dict[str, Any]
    command: Sequence[str]
    options: dict[str, Any]
    cases: list[RuntimeCase] = field(default_factory=list)
    export: Optional[ExportTime] = None

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(
            machine=self.machine,
            command=list(self.command),
            options=self.options,
            forms=FORMS,
            cases=[c.document() for c in self.cases],
            export=asdict(self.export) if self.export else None)
