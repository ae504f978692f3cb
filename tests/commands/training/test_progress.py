"""What people see of a training: read from mmengine's lines, as it prints them."""

import io

import pytest
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training.progress import Progressed, TrainingProgress

HEAD = '11/30 08:32:20 - mmengine - INFO - '
#: As mmengine printed them.
EPOCHS = [
    f'{HEAD}Epoch(train) [1][10/20]  base_lr: 5.2632e-02 lr: 5.2632e-02  eta: 0:00:05  '
    'time: 0.1710  data_time: 0.0176  loss: 2.3318',
    f'{HEAD}Epoch(train) [1][20/20]  base_lr: 1.0e-01 lr: 1.0e-01  eta: 0:00:03  loss: 2.2171',
    f'{HEAD}Saving checkpoint at 1 epochs',
    f'{HEAD}Epoch(val) [1][5/5]    accuracy/top1: 10.1852  accuracy/top5: 50.3704  '
    'data_time: 0.0274  time: 0.0873',
    f'{HEAD}Epoch(train) [2][10/20]  lr: 9.9e-02  eta: 0:00:01  time: 0.0905  loss: 1.3957',
    f'{HEAD}Epoch(train) [2][20/20]  lr: 9.9e-02  eta: 0:00:00  time: 0.0874  loss: 0.7535',
]


def shown(lines, epochs=None, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=120, **options)
    with TrainingProgress('train', console, epochs) as progress:
        for line in lines:
            progress.read(line)
    return stream.getvalue()


def test_a_line_changes_what_it_says_and_no_more():
    now = Progressed()
    for line in EPOCHS[:2]:
        now = now.after(line)
    assert now == Progressed('train', 1, 20, 20, '2.2171', '0:00:03')
    assert now.after(EPOCHS[2]) is None
    scored = now.after(EPOCHS[3])
    assert (scored.stage, scored.loss, scored.score) == ('val', '2.2171', 'top1 10.19 (epoch 1)')
    assert scored.after(EPOCHS[4]).score == scored.score


def test_not_on_a_terminal_each_epoch_has_one_line():
    assert shown(EPOCHS, 2).splitlines() == [
        'train: 2 epochs',
        'train: epoch 1/2, loss 2.2171, top1 10.19 (epoch 1), 0:00:03 left',
        'train: epoch 2/2, loss 0.7535, top1 10.19 (epoch 1), 0:00:00 left',
    ]


def test_a_terminal_has_one_line_that_stays_on_the_screen_no_longer_than_the_run():
    text = shown(EPOCHS, 2, force_terminal=True, force_jupyter=False)
    assert 'train: 2 epochs' not in text
    assert text.endswith('\x1b[2K')  # erased
    assert 'epoch 2/2, loss 0.7535' in text


@pytest.mark.parametrize('steps', [24, 2000])
def test_a_run_without_epochs_prints_a_line_for_a_share_of_it(steps):
    lines = [
        f'{HEAD}Iter(train) [{step:4}/{steps}]  lr: 0.1  eta: 1 day, 2:00:00  loss: {steps / step}'
        for step in range(1, steps + 1)
    ]
    found = shown(lines).splitlines()
    assert 10 < len(found) <= 22
    assert found[-1] == f'train: iteration {steps}/{steps}, loss 1.0, 1 day, 2:00:00 left'


def test_scoring_alone_prints_nothing_but_moves_the_bar():
    lines = [f'{HEAD}Epoch(test) [{n}/5]    eta: 0:00:01  time: 0.1' for n in range(1, 6)]
    assert shown(lines) == ''
    assert 'test 5/5' in shown(lines, force_terminal=True, force_jupyter=False)


def test_a_loss_that_is_no_number_is_shown_as_it_is():
    now = Progressed().after(f'{HEAD}Epoch(train) [1][1/2]  lr: 1.0  loss: nan')
    assert now.loss == 'nan'
