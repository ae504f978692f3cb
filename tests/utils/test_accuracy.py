"""What a form loses against another, and what images can say about it."""

import json

import pytest
import torch
from sklearn import metrics

from mmpretrain_mobileone_ext.utils.accuracy import (
    Answers,
    Loss,
    Verdict,
    confusion,
    loss_between,
    too_many_changed,
    verdict_on,
)
from mmpretrain_mobileone_ext.utils.text import interval_of, share, worth


def answers(reference, candidate, labels=None):
    return Answers(
        *(None if v is None else torch.tensor(v) for v in (reference, candidate, labels))
    )


def test_losses_are_counted_image_by_image():
    before = answers([1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 4])
    after = answers([1, 2, 3, 4], [1, 0, 0, 4], [1, 2, 0, 4])
    found = loss_between(before, after)
    assert (found.lost, found.gained, found.images) == (1, 2, 4)
    assert found.points == -25
    assert found.low < -25 < found.high
    back = loss_between(after, before)
    assert (back.points, back.low) == (25, pytest.approx(-found.high))


def test_without_labels_the_networks_count():
    before = answers([1, 2, 3], [1, 2, 3])
    found = loss_between(before, answers([1, 2, 3], [1, 2, 0]))
    assert (found.lost, found.gained) == (1, 0)


@pytest.mark.parametrize(
    ('lost', 'gained', 'images', 'bound', 'changed', 'level'),
    [
        (0, 0, 10_000, 0.5, 0, 'good'),
        (30, 0, 10_000, 0.5, 30, 'good'),
        (0, 0, 540, 0.5, 0, 'warn'),  # up to 0.71 points
        (0, 0, 540, 1.0, 0, 'good'),
        (0, 0, 56, 2.0, 0, 'warn'),
        (2, 2, 56, 2.0, 5, 'warn'),  # the issue's: no 'keeps the accuracy'
        (2, 2, 56, 90.0, 5, 'good'),
        (2, 0, 56, 2.0, 2, 'bad'),
        (300, 300, 10_000, 2.0, 900, 'warn'),  # a balance, however exact
        (60, 0, 10_000, 0.5, 60, 'bad'),
    ],
)
def test_levels(lost, gained, images, bound, changed, level):
    found = Verdict(Loss(lost, gained, images), bound, 'max-drop', changed)
    assert found.level == level
    assert ('be sure' in found.words) == (
        found.uncertain and not found.beyond and not found.restless
    )


def test_what_the_form_before_changed_is_not_counted_again():
    before = answers([0] * 100, [1] * 3 + [0] * 97, [0] * 100)
    found = verdict_on(before, before, 1.0, 'x')
    assert (found.changed, found.changed_before) == (3, 3)
    assert not found.restless


def test_a_part_is_judged_alone():
    labels = [0] * 8
    before = answers(labels, labels, labels)
    after = answers(labels, [0, 1] * 4, labels)
    other = slice(1, None, 2)
    found = verdict_on(before.part(other), after.part(other), 1.0, 'x', True)
    assert (found.loss.points, found.loss.images) == (100, 4)
    assert found.judged_apart


def test_the_record_is_plain_and_whole():
    found = Verdict(Loss(2, 1, 56), 2.0, 'max-drop 2', 4).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found['lost_points'] == pytest.approx(100 / 56)
    assert found['low'] < found['lost_points'] < found['high']
    assert found['level'] == 'warn'


def test_twice_the_bound_of_labels_may_change():
    assert not too_many_changed(1.0, 0.5)
    assert too_many_changed(1.1, 0.5)
    assert too_many_changed(0.1, 0.0)


def test_words():
    assert worth(56) == '1 image = 1.79 points'
    assert worth(540) == '1 image = 0.19 points'
    assert worth(50_000) == '1 image = 0.002 points'
    assert share(100 * 536 / 540, 540) == '99.26 [98.1, 99.7]'
    assert share(100.0, 56, ' %') == '100.00 % [93.6, 100.0]'
    assert share(None, 56) == '\u2013'
    assert interval_of(50.0, 0) is None
    assert Loss(0, 0, 540).words == '0.00 points (95 % interval -0.71 to 0.71)'


def test_classes_against_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    truth, said = (torch.randint(0, 5, (300,), generator=generator) for _ in range(2))
    found = confusion(truth, said, 'abcde')
    assert found.counts == tuple(map(tuple, metrics.confusion_matrix(truth, said).tolist()))
    precision, recall, _, images = metrics.precision_recall_fscore_support(truth, said)
    for row, p, r, n in zip(found.scores, precision, recall, images):
        assert (row.precision, row.recall, row.images) == pytest.approx((100 * p, 100 * r, n))
    counts = [count for count, _, _ in found.mixed_up]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == int((truth != said).sum())


def test_a_class_that_nobody_has_or_says_has_no_score():
    found = confusion(torch.tensor([0, 0]), torch.tensor([0, 3]), ['a', 'b'])
    assert found.names == ('a', 'b', '2', '3')
    a, b, _, last = found.scores
    assert (a.precision, a.recall) == (100, 50)
    assert (b.precision, b.recall, b.images) == (None, None, 0)
    assert (last.precision, last.recall) == (0, None)
    assert found.mixed_up == [(1, 'a', '3')]
