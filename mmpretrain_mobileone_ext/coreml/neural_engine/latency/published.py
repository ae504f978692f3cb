"""Latencies that were published, with where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name('published.json')


@dataclass(frozen=True)
class PublishedLatencies:
    """What the MobileOne paper measured on one device.

    Attributes:
        title, url: of the paper.
        device, chip: e.g. 'iPhone 12', 'A14'.
        how: it was measured.
        ms: network to latency.
        tables: network to the table it stands in.
        thirty_layers: activation to the latency of a network of 30 layers whose widths were not
            published, in the order of latencies.
    """

    title: str
    url: str
    device: str
    chip: str
    how: str
    ms: dict[str, float]
    tables: dict[str, str]
    thirty_layers: dict[str, float]


def published() -> PublishedLatencies:
    """Read the package's file."""
    found = json.loads(_FILE.read_text(encoding='utf-8'))
    return PublishedLatencies(
        **{key: found[key] for key in ('title', 'url', 'device', 'chip', 'how')},
        ms={name: row['ms'] for name, row in found['networks'].items()},
        tables={name: row['table'] for name, row in found['networks'].items()},
        thirty_layers=found['thirty_layers']['ms'],
    )
