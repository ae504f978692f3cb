"""Score files that store weights by plans, and keep the smallest that fits."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Protocol

from ...errors import ExportError
from ...utils.accuracy import too_many_changed
from ...utils.files import tree_bytes
from ...utils.parity import Parity
from .apply import MLPACKAGE, Store
from .kmeans import Palettes
from .storage import DENSE, Storage


class Scores(Protocol):
    """What a file scored; ``export.verify`` has it."""

    @property
    def parity(self) -> Parity:
        """Of its probabilities with the network's."""

    @property
    def top1_candidate(self) -> Optional[float]:
        """Share of correct labels, 0 to 1; None without labels."""


@dataclass(frozen=True)
class Candidate:
    """One file that was scored.

    Attributes:
        scheme: what it is, in words.
        kind: 'none', 'fixed' (a named scheme), 'layer' (one layer alone) or 'mixed'.
        size_bytes: of the whole package.
        top1: share of correct labels, 0 to 1; None without labels.
        agreement: share of images with the network's own top-1.
        drop_points: percentage points of top-1 below the uncompressed file; of agreement without
            labels.
        relative: relative error of the probabilities.
        fits: nothing speaks against it.
        plan: operation name to storage; dense ones are left out.
        path: of the file; None where it has been removed again.
        reason: why it does not fit, or why it was not taken.
    """

    scheme: str
    kind: str
    size_bytes: int
    top1: Optional[float]
    agreement: float
    drop_points: float
    relative: float
    fits: bool
    plan: Mapping[str, Storage]
    path: Optional[Path]
    reason: str = ''


class Trial:
    """Makes candidates, scores them, and keeps the best one's file.

    Args:
        source: uncompressed file.
        folder: for the candidates.
        evaluate: scores a file.
        baseline: the scores of ``source``.
        max_drop: budget in percentage points.
        store: how files of the format hold weights.

    Attributes:
        best: the smallest candidate that fits.
        candidates: all, in the order in which they were scored.
        budget: ``max_drop``.
        palettes: remembers tables.

    Raises:
        ExportError: the scores have no top-1.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        evaluate: Callable[[Path], Scores],
        baseline: Scores,
        max_drop: float,
        store: Store = MLPACKAGE,
    ):
        self.palettes = Palettes()
        self._store = store
        self._source, self._folder = source, folder
        self._evaluate, self.budget = evaluate, max_drop
        self._known: dict[frozenset[tuple[str, Storage]], Candidate] = {}
        self._base = _shares(baseline)
        self.best = self._judge(baseline, 'none', 'none', {}, source)
        self.candidates = [self.best]
        self._known[frozenset()] = self.best

    def score(self, plan: Mapping[str, Storage], kind: str, words: str = '') -> Candidate:
        """Score a plan, once; the file stays only if it is the best."""
        stored = {k: storage for k, storage in plan.items() if storage != DENSE}
        key = frozenset(stored.items())
        if key in self._known:
            return self._known[key]
        path = self._folder / f'candidate-{len(self.candidates)}{self._source.suffix}'
        self._store.write(self._source, stored, path, self.palettes)
        found = self._judge(self._evaluate(path), kind, words or in_words(stored), stored, path)
        if found.fits and found.size_bytes < self.best.size_bytes:
            self._remove(self.best)
            self.best = found
        else:
            self._remove(found)
        self._known[key] = found
        self.candidates.append(found)
        return found

    def _judge(
        self, scores: Scores, kind: str, words: str, plan: Mapping[str, Storage], path: Path
    ) -> Candidate:
        top1, agreement = _shares(scores)
        before, now = (self._base[1], agreement) if top1 is None else (self._base[0], top1)
        # Shares of images are no binary fractions: 0.5 is to equal 0.5.
        drop = round(100 * ((before or 0.0) - now), 9)
        relative = scores.parity.relative
        changed = round(100 * (self._base[1] - agreement), 9)
        reason = _reason(drop, changed, relative, self.budget)
        return Candidate(
            scheme=words,
            kind=kind,
            size_bytes=tree_bytes(path),
            top1=top1,
            agreement=agreement,
            drop_points=drop,
            relative=relative,
            fits=not reason,
            plan=plan,
            path=path,
            reason=reason,
        )

    def _remove(self, candidate: Candidate) -> None:
        if candidate.path not in (None, self._source):
            shutil.rmtree(str(candidate.path))

    def all(self) -> tuple[Candidate, ...]:
        """All candidates; only the best one has a path."""
        return tuple(c if c is self.best else replace(c, path=None) for c in self.candidates)


def _reason(drop: float, changed: float, relative: float, budget: float) -> str:
    """What speaks against a file, or ''; points, and a relative error."""
    if not relative < float('inf'):
        return 'not finite'  # scores of nan have a first class, too
    if drop > budget:
        return f'loses {drop:.2f} points'
    if too_many_changed(changed, budget):
        return f'changes {changed:.2f} % of the labels'
    return ''


def _shares(scores: Scores) -> tuple[Optional[float], float]:
    """Top-1 (None without labels) and agreement, 0 to 1."""
    agreement = scores.parity.top1_agreement
    if agreement is None:
        raise ExportError(
            "compress 'auto' compares top-1 classes, and the "
            'outputs are no class scores; name a fixed scheme'
        )
    return scores.top1_candidate, agreement


def in_words(plan: Mapping[str, Storage]) -> str:
    """'3 x int8, 4 x palettize4': how many weights are stored how."""
    counted = Counter(storage.name for storage in plan.values())
    return ', '.join(f'{n} x {name}' for name, n in sorted(counted.items()))
