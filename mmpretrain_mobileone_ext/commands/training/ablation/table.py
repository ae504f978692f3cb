"""Variants side by side: a table, Markdown, CSV and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ....errors import MobileOneExtError
from ....report.figures import BLUE, new_figure, save_figure
from ....utils.files import write_text, write_whole
from ....utils.text import csv_text, figures_table, markdown, markdown_table, plot_label

#: The file with the table, in the output folder.
TABLE = 'ablation.md'
_HEADS = ('mean', 'std', 'min', 'max', 'seeds', 'step ms', 'params', 'folded')


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
            raise MobileOneExtError(f'{path} holds no result of a trial: {error}') from error


@dataclass(frozen=True)
class VariantSummary:
    """All seeds of a variant, at least one."""

    results: tuple[TrialResult, ...]

    @property
    def variant(self) -> str:
        return self.results[0].variant

    @property
    def metric(self) -> str:
        return self.results[0].metric

    @property
    def scores(self) -> tuple[float, ...]:
        return tuple(r.score for r in self.results)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float:
        """The sample's; 0 for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def step_s(self) -> float:
        """Median of the seeds."""
        return statistics.median(r.step_s for r in self.results)

    @property
    def cells(self) -> list[str]:
        """Its row below ``_HEADS``."""
        return [
            *(f'{x:.2f}' for x in (self.mean, self.std, min(self.scores), max(self.scores))),
            str(len(self.scores)),
            f'{1000 * self.step_s:.0f}',
            f'{self.results[0].train_params:,}',
            f'{self.results[0].deploy_params:,}',
        ]


def summarize(results: Sequence[TrialResult]) -> list[VariantSummary]:
    """One summary a variant, in the order in which variants appear."""
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.variant, []).append(result)
    return [VariantSummary(tuple(group)) for group in groups.values()]


def summary_table(summaries: Sequence[VariantSummary]) -> Table:
    """One row a variant, for a terminal or a log."""
    # Nine columns leave room for names in a window of 80 only without lines between them.
    table = figures_table(
        ['variant'],
        _HEADS,
        whole=True,
        title=summaries[0].metric,
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for summary in summaries:
        table.add_row(summary.variant, *summary.cells)
    return table


def write_results(results: Sequence[TrialResult], out: Path) -> None:
    """Write ``ablation.{md,csv,png}`` into ``out``."""
    summaries = summarize(results)
    rows = [[s.variant, *s.cells] for s in summaries]
    table = markdown_table(['variant', *_HEADS], rows, 'l' + 'r' * len(_HEADS))
    head = f'{markdown(summaries[0].metric)}, after the last epoch'
    names = [f.name for f in fields(TrialResult)]
    write_text(out / TABLE, f'{head}\n\n{table}')
    write_text(
        out / 'ablation.csv', csv_text([names, *(list(asdict(r).values()) for r in results)])
    )
    write_whole(out / 'ablation.png', partial(_plot, summaries))


def _plot(summaries: Sequence[VariantSummary], path: Path) -> None:
    """Every seed as a dot, the mean as a bar across them."""
    figure = new_figure(7.5, 1.2 + 0.45 * len(summaries))
    axis = figure.subplots()
    for row, summary in enumerate(summaries):
        rows = [row] * len(summary.scores)
        axis.plot(summary.scores, rows, 'o', ms=6, color=BLUE, alpha=0.55, mec='none')
        axis.plot([summary.mean] * 2, [row - 0.3, row + 0.3], lw=2, color='#222222')
        axis.annotate(
            f'{summary.mean:.2f}',
            (summary.mean, row - 0.3),
            (0, 1),
            ha='center',
            va='bottom',
            fontsize=8,
            textcoords='offset points',
        )
    axis.set_yticks(range(len(summaries)), [plot_label(s.variant) for s in summaries])
    axis.set_ylim(len(summaries) - 0.5, -0.75)
    axis.margins(x=0.12)
    axis.set_xlabel(f'{plot_label(summaries[0].metric)}; dots are seeds, bars their mean')
    axis.grid(axis='x', alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    save_figure(figure, path)
