"""What the scores of single runs say about a variant, and how it is shown."""

import csv
import io
import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training.ablation.run import last_score, median_step
from mmpretrain_mobileone_ext.commands.training.ablation.table import (
    TrialResult,
    summarize,
    summary_table,
    write_results,
)
from mmpretrain_mobileone_ext.errors import MobileOneExtError


def result(variant, seed, score, step_s=0.1):
    return TrialResult(variant, seed, 'accuracy/top1', score, step_s, 1234, 567)


@pytest.fixture
def results():
    scores = np.random.default_rng(0).uniform(80, 90, (2, 3))
    return [
        result(name, seed, float(scores[row, seed]), 0.1 + row)
        for seed in range(3)
        for row, name in enumerate(['k = 4', 'k|1'])
    ]


def test_a_summary_is_the_mean_and_the_samples_spread(results):
    first, second = summarize(results)
    assert (first.variant, second.variant) == ('k = 4', 'k|1')
    scores = [r.score for r in results if r.variant == 'k = 4']
    assert first.scores == tuple(scores)
    assert first.mean == pytest.approx(np.mean(scores))
    assert first.std == pytest.approx(np.std(scores, ddof=1))
    assert (first.step_s, second.step_s) == (0.1, 1.1)


def test_one_seed_has_no_spread():
    assert summarize([result('a', 0, 50.0)])[0].std == 0


def test_a_result_survives_its_file(tmp_path):
    path = tmp_path / 'trial.json'
    path.write_text(result('a', 0, 1 / 3).to_json())
    assert TrialResult.read(path) == result('a', 0, 1 / 3)
    path.write_text('{"variant": 1}')
    with pytest.raises(MobileOneExtError, match='no result of a trial'):
        TrialResult.read(path)


def test_all_files_hold_every_run(results, tmp_path):
    write_results(results, tmp_path)
    with open(tmp_path / 'ablation.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(r['variant'], float(r['score'])) for r in rows] == [
        (r.variant, r.score) for r in results
    ]
    text = (tmp_path / 'ablation.md').read_text()
    mean = statistics.fmean(r.score for r in results if r.variant == 'k = 4')
    assert f'| k = 4 | {mean:.2f} |' in text
    picture = np.asarray(Image.open(tmp_path / 'ablation.png').convert('L'))
    assert picture.std() > 5  # something is drawn


def test_the_table_names_each_variant(results):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(summarize(results)))
    shown = console.export_text()
    assert 'k = 4' in shown
    assert 'k|1' in shown
    assert '1,234' in shown


def test_in_80_columns_names_are_folded_and_figures_whole(results):
    long = 'num_conv_branches=1, act_cfg=SiLU'
    large = [replace(r, variant=long, train_params=14_840_000) for r in results]
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(summarize(large)))
    said = console.file.getvalue()
    for cell in summarize(large)[0].cells:
        assert cell in said
    assert '\u2026' not in said
    folded = ''.join(line[:28].split('  ')[0] for line in said.splitlines()[3:])
    assert long.replace(' ', '') in folded.replace(' ', '')


def scalars(work_dir, start, *records, tail=''):
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(r) + '\n' for r in records)
    (folder / 'scalars.json').write_text(text + tail)


def test_the_last_validation_of_the_last_start_counts(tmp_path):
    scalars(
        tmp_path,
        '20240101_000000',
        {'loss': 2.0, 'time': 0.5},
        {'accuracy/top1': 10.0, 'step': 1},
        tail='{"loss": 1.',
    )  # killed while it wrote
    scalars(
        tmp_path,
        '20240102_000000',
        {'loss': 1.0, 'time': 0.1},
        {'loss': 1.0, 'time': 0.2},
        {'accuracy/top1': 20.0, 'time': 9.0, 'step': 2},
    )
    assert last_score(tmp_path, 'accuracy/top1') == 20
    assert median_step(tmp_path) == 0.2  # validation's time is another


def test_a_metric_that_nobody_logged_is_named(tmp_path):
    scalars(tmp_path, 'x', {'accuracy/top1': 1.0})
    with pytest.raises(MobileOneExtError, match=r"'f1'; there are \['accura"):
        last_score(tmp_path, 'f1')
    assert math.isnan(median_step(tmp_path))
