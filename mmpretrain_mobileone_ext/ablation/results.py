"""Scores of single runs, and what they say about a variant."""
from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import MobileOneExtError


@dataclass(frozen=True)
class TrialResult:
    """One finished run.

    Attributes:
        variant, seed: which.
        metric: name of the score, such as ``accuracy/top1``.
        score: its value after the last epoch.
        step_s: median seconds of a training step, data included, by the log.
        train_params: parameters in training form.
        deploy_params: parameters after the fold.
    """
    variant: str
    seed: int
    metric: str
    score: float
    step_s: float
    train_params: int
    deploy_params: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + '\n'

    @classmethod
    def read(cls, path: Path) -> TrialResult:
        """Read a file that :meth:`to_json` wrote.

        Raises:
            MobileOneExtError: it is something else.
        """
        try:
            return cls(**json.loads(path.read_text('utf-8')))
        except (ValueError, TypeError) as error:
            raise MobileOneExtError(f'{path} holds no result of a trial: '
                                    f'{error}') from error


@dataclass(frozen=True)
class VariantSummary:
    """All seeds of a variant; ``std`` is the sample's, 0 for one seed."""
    variant: str
    metric: str
    scores: tuple[float, ...]
    mean: float
    std: float
    step_s: float
    train_params: int
    deploy_params: int


def summarize(results: Sequence[TrialResult]) -> list[VariantSummary]:
    """One summary a variant, in the order in which variants appear."""
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.variant, []).append(result)
    return [_summary(name, group) for name, group in groups.items()]


def _summary(name: str, group: Sequence[TrialResult]) -> VariantSummary:
    scores = tuple(r.score for r in group)
    return VariantSummary(
        name, group[0].metric, scores, statistics.fmean(scores),
        statistics.stdev(scores) if len(scores) > 1 else 0.0,
        statistics.median(r.step_s for r in group),
        group[0].train_params, group[0].deploy_params)
