"""Variants side by side: a table, Markdown, CSV and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from ....errors import MobileOneExtError
from ....utils.files import write_whole
from ....utils.text import csv_text, markdown, plot_label


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
        name,
        group[0].metric,
        scores,
        statistics.fmean(scores),
        statistics.stdev(scores) if len(scores) > 1 else 0.0,
        statistics.median(r.step_s for r in group),
        group[0].train_params,
        group[0].deploy_params,
    )


_HEADERS = ('mean', 'std', 'min', 'max', 'seeds', 'step ms', 'params', 'folded')
_COLOUR = '#0072B2'
_DPI = 160


def summary_table(summaries: Sequence[VariantSummary]) -> Table:
    """One row a variant, for a terminal or a log."""
    table = Table(title=summaries[0].metric, title_justify='left')
    table.add_column('variant')
    for name in _HEADERS:
        table.add_column(name, justify='right', no_wrap=True)
    for summary in summaries:
        table.add_row(summary.variant, *_cells(summary))
    return table


def write_results(results: Sequence[TrialResult], out: Path) -> None:
    """Write ``ablation.{md,csv,png}`` into ``out``."""
    summaries = summarize(results)
    texts = {'ablation.md': _markdown(summaries), 'ablation.csv': _csv(results)}
    for name, text in texts.items():
        # Bytes, because csv brings its own line ends.
        write_whole(out / name, partial(Path.write_bytes, data=text.encode()))
    write_whole(out / 'ablation.png', partial(_plot, summaries))


def _cells(s: VariantSummary) -> list[str]:
    return [
        f'{s.mean:.2f}',
        f'{s.std:.2f}',
        f'{min(s.scores):.2f}',
        f'{max(s.scores):.2f}',
        str(len(s.scores)),
        f'{1000 * s.step_s:.0f}',
        f'{s.train_params:,}',
        f'{s.deploy_params:,}',
    ]


def _markdown(summaries: Sequence[VariantSummary]) -> str:
    lines = [
        f'{markdown(summaries[0].metric)}, after the last epoch',
        '',
        '| variant | ' + ' | '.join(_HEADERS) + ' |',
        '|---|' + '---:|' * len(_HEADERS),
    ]
    lines += [f'| {markdown(s.variant)} | ' + ' | '.join(_cells(s)) + ' |' for s in summaries]
    return '\n'.join(lines) + '\n'


def _csv(results: Sequence[TrialResult]) -> str:
    names = ('variant', 'seed', 'metric', 'score', 'step_s', 'train_params', 'deploy_params')
    return csv_text([names, *([getattr(result, name) for name in names] for result in results)])


def _plot(summaries: Sequence[VariantSummary], path: Path) -> None:
    """Every seed as a dot, the mean as a bar across them."""
    figure = Figure(figsize=(7.5, 1.2 + 0.45 * len(summaries)), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row, summary in enumerate(summaries):
        axis.plot(
            summary.scores,
            [row] * len(summary.scores),
            'o',
            ms=6,
            color=_COLOUR,
            alpha=0.55,
            mec='none',
        )
        axis.plot([summary.mean] * 2, [row - 0.3, row + 0.3], lw=2, color='#222222')
        axis.annotate(
            f'{summary.mean:.2f}',
            (summary.mean, row - 0.3),
            ha='center',
            va='bottom',
            fontsize=8,
            xytext=(0, 1),
            textcoords='offset points',
        )
    axis.set_yticks(range(len(summaries)), [plot_label(s.variant) for s in summaries])
    axis.set_ylim(len(summaries) - 0.5, -0.75)
    axis.margins(x=0.12)
    axis.set_xlabel(f'{plot_label(summaries[0].metric)}; dots are seeds, bars their mean')
    axis.grid(axis='x', alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=_DPI)
