"""What a comparison found; knows nothing of how it is measured."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from .latency import Latency
from .published import Published, best_top1


@dataclass(frozen=True)
class DeviceLatency:
    """Of a bench's JSON: a device, and ms a prediction."""
    device: str
    median_ms: float
    source: str


@dataclass
class Row:
    """One model; what could not be measured is None.

    Attributes:
        name, label, origin: as of ``Entry``.
        ours: whether it is a MobileOne.
        params, flops: of the folded network, flops in multiply-adds.
        torch, onnx: latency of one image on this CPU.
        coreml_bytes, coreml_ops: of an fp16 ``.mlpackage``.
        devices: latencies that were measured on devices.
        published: accuracy and latency as others state it.
        failure: why the model could not be measured further.
    """
    name: str
    label: str
    origin: str
    ours: bool
    published: tuple[Published, ...] = ()
    params: Optional[int] = None
    flops: Optional[int] = None
    torch: Optional[Latency] = None
    onnx: Optional[Latency] = None
    coreml_bytes: Optional[int] = None
    coreml_ops: Optional[int] = None
    coreml_relative: Optional[float] = None
    devices: list[DeviceLatency] = field(default_factory=list)
    failure: Optional[str] = None

    @property
    def top1(self) -> Optional[float]:
        """As published, percent."""
        return best_top1(self.published)


@dataclass(frozen=True)
class Comparison:
    """All rows, with what they were measured on.

    Attributes:
        rows: in the order in which the models were given.
        size: of the images, in pixels.
        threads: of torch and of ONNX Runtime.
        machine: as of ``benchmark.machine``.
        notes: what was left out, and why.
    """
    rows: tuple[Row, ...]
    size: int
    threads: int
    machine: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.failure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = asdict(self)
        for row, plain in zip(self.rows, found['rows']):
            for kind in ('torch', 'onnx'):
                lap = getattr(row, kind)
                plain[kind] = None if lap is None else lap._asdict()
        return found
