"""Two forms over a grid of shapes, without those that cannot be run."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional


from .memory import free_bytes
from .options import BenchmarkOptions
from .results import Case

#: A step needs more than what is saved: gradients and working space.
ROOM = 1.5
#: A step longer than this is not worth waiting for.
MAX_STEP_S = 60.0

Measure = Callable[[str, int, int], Case]


@dataclass
class Forecast:
    """Predicts a case of an architecture from the largest one measured.

    Both time and saved bytes grow with the number of pixels; fixed parts
    make small cases predict too much, never too little.
    """
    bytes_per_pixel: float = 0.0
    ms_per_pixel: float = 0.0

    def learn(self, case: Case) -> None:
        """Take the costlier form of a measured case."""
        saved = [c.saved_bytes for c in case.costs if c.saved_bytes]
        times = [c.median_ms for c in case.costs if c.median_ms]
        if saved and times:
            self.bytes_per_pixel = max(saved) / case.pixels
            self.ms_per_pixel = max(times) / case.pixels

    def refusal(self, pixels: int, free: Optional[int]) -> Optional[str]:
        """Why a case with so many pixels should not be run, or None.

        Args:
            pixels: of all images together.
            free: bytes that can be taken; None where unknown.
        """
        need = ROOM * self.bytes_per_pixel * pixels
        seconds = self.ms_per_pixel * pixels / 1000
        if free is not None and need > free:
            return (f'needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB '
                    'are free')
        if seconds > MAX_STEP_S:
            return (f'a step would take about {seconds:.0f} s, more than '
                    f'{MAX_STEP_S:.0f} s')
        return None


def sweep_cases(options: BenchmarkOptions,
                measure: Measure) -> Iterator[Case]:
    """Measure the grid, small shapes of an architecture first.

    Yields every case: measured, or with the reason why it was skipped.

    Args:
        options: architectures, batches, sizes and the device.
        measure: measures (arch, batch, size).
    """
    forecasts = {arch: Forecast() for arch in options.arch or ()}
    for arch, batch, size in options.cases():
        free = free_bytes(options.device)
        refusal = forecasts[arch].refusal(batch * size**2, free)
        if refusal:
            yield Case(arch, batch, size, skipped=refusal)
            continue
        case = measure(arch, batch, size)
        forecasts[arch].learn(case)
        yield case


def rated(cases: Sequence[Case], form: str,
          reference: str) -> list[tuple[float, Case]]:
    """(ratio, case) of the cases in which both forms ran, worst first."""
    found = [(c.ratio(form, reference), c) for c in cases]
    return sorted(((r, c) for r, c in found if r is not None),
                  key=lambda pair: -pair[0])
