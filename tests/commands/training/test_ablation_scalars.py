"""The score at the end of a training, whatever its clock said."""

import itertools
import json

import pytest

from mmpretrain_mobileone_ext.commands.training.ablation.run import last_score
from mmpretrain_mobileone_ext.errors import MobileOneExtError

TOP1 = 'accuracy/top1'


def start(work_dir, clock, epochs, scores, by_epoch=True):
    """What one start of a run leaves; a score of None was not reached."""
    folder = work_dir / clock / 'vis_data'
    folder.mkdir(parents=True)
    lines = []
    for epoch, score in zip(epochs, scores):
        lines.append(
            dict(loss=1.0, time=0.1, step=10 * epoch, **(dict(epoch=epoch) if by_epoch else {}))
        )
        if score is not None:
            lines.append({TOP1: score, 'time': 9.0, 'step': epoch if by_epoch else 10 * epoch})
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))


@pytest.mark.parametrize(
    'clocks',
    list(itertools.permutations(['20250101_000000', '20240101_000000', '20230101_000000'])),
)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_furthest_start_counts_not_the_latest_clock(clocks, by_epoch, tmp_path):
    start(tmp_path, clocks[0], (1, 2), (10.0, 30.0), by_epoch)
    start(tmp_path, clocks[1], (3,), (None,), by_epoch)  # killed
    start(tmp_path, clocks[2], (3, 4), (40.0, 50.0), by_epoch)
    assert last_score(tmp_path, TOP1) == 50.0


def test_of_one_start_the_later_line_of_a_step_counts(tmp_path):
    start(tmp_path, 'x', (1, 2, 2), (99.0, 30.0, 50.0))
    assert last_score(tmp_path, TOP1) == 50.0


def test_a_score_from_before_the_end_is_refused(tmp_path):
    """Killed while it validated for the last time: nothing does it again."""
    start(tmp_path, 'x', (1, 2, 3), (10.0, 30.0, None))
    with pytest.raises(MobileOneExtError, match='is of epoch 2, but epoch 3'):
        last_score(tmp_path, TOP1)


def test_two_whole_runs_with_different_scores_are_refused(tmp_path):
    start(tmp_path, 'x', (1, 2), (10.0, 30.0))
    start(tmp_path, 'y', (1, 2), (20.0, 50.0))
    with pytest.raises(MobileOneExtError, match=r'ended at 2.*30\.0 in.*50'):
        last_score(tmp_path, TOP1)


def test_two_whole_runs_that_agree_are_one(tmp_path):
    start(tmp_path, 'x', (1, 2), (10.0, 50.0))
    start(tmp_path, 'y', (1, 2), (20.0, 50.0))
    assert last_score(tmp_path, TOP1) == 50.0


def test_lines_that_are_no_records_are_left_out(tmp_path):
    start(tmp_path, 'x', (1,), (50.0,))
    with open(tmp_path / 'x/vis_data/scalars.json', 'ab') as file:
        file.write(b'5\n[]\n\xff\n{"accuracy/top')
    assert last_score(tmp_path, TOP1) == 50.0
