"""Accuracy and latency that others published, each with its source.

The only figures of a comparison that are not measured in it: those of
mmpretrain's model hub, and of the paper in ``published.json``.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

FILE = Path(__file__).with_name('published.json')
_DATASET = 'ImageNet-1k'
_METRIC = 'Top 1 Accuracy'


@dataclass(frozen=True)
class Published:
    """What a source says of a model.

    Attributes:
        kind: 'hub' or 'paper'.
        source: where it is written.
        top1: on ImageNet-1k's validation split, percent.
        mobile_ms: latency on a phone, as the source measured it.
    """
    kind: str
    source: str
    top1: Optional[float] = None
    mobile_ms: Optional[float] = None


def from_hub(meta: Any) -> list[Published]:
    """Accuracy in a model hub's entry; empty where it has none."""
    found = [result.metrics[_METRIC] for result in meta.results or []
             if result.dataset == _DATASET and _METRIC in result.metrics]
    return [Published('hub', f'metafile of {meta.name}', top1=float(value))
            for value in found[:1]]


def from_paper(label: str) -> list[Published]:
    """What the MobileOne paper measured of an architecture.

    Args:
        label: e.g. 'mobilenet-v2'; ours ('mobileone-ext-s0') have the
            paper's architectures.
    """
    document = json.loads(FILE.read_text(encoding='utf-8'))
    key = label.lower().replace('mobileone-ext-', 'mobileone-')
    found = document['figures'].get(key)
    if found is None:
        return []
    return [Published('paper', document['source'][found['table']],
                      found['top1'], found['mobile_ms'])]


def pick(published: Sequence[Published], kind: str) -> Optional[Published]:
    """The first of a kind."""
    return next((p for p in published if p.kind == kind), None)


def best_top1(published: Sequence[Published]) -> Optional[float]:
    """Of the hub's weights, else of the paper; None where nobody says."""
    for kind in ('hub', 'paper'):
        found = pick(published, kind)
        if found is not None and found.top1 is not None:
            return found.top1
    return None
