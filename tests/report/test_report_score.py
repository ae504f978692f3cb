"""Figures of forms against NumPy, on probabilities that are known."""

import math

import numpy as np
import pytest
import torch

from mmpretrain_mobileone_ext.errors import MobileOneExtError, ProgramError
from mmpretrain_mobileone_ext.export.data import Images
from mmpretrain_mobileone_ext.report import FormRow
from mmpretrain_mobileone_ext.report.forms import Form
from mmpretrain_mobileone_ext.report.score import Scores, parity_checks, score, scored_rows

COUNT, CLASSES = 40, 8


def table(seed):
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=(COUNT, CLASSES)) * 2)
    return torch.from_numpy(scores / scores.sum(1, keepdims=True))


REFERENCE, OTHER = table(0), table(1)
LABELS = torch.from_numpy(np.random.default_rng(2).integers(0, CLASSES, COUNT))


class Dealt(Images):
    """Images whose pixels are their positions, 16 at a time."""

    def __len__(self):
        return COUNT

    def chunks(self):
        for start in range(0, COUNT, 16):
            at = torch.arange(start, min(start + 16, COUNT))
            yield at.view(-1, 1, 1, 1).to(torch.uint8), LABELS[at]


IMAGES = Dealt('dealt', (1, 1, 1, 1))


def form(name, found, tolerance=None, note=''):
    return Form(FormRow(name, note=note), found and (lambda pixels: found(pixels)), tolerance)


def looked_up(found):
    return lambda pixels: found[pixels.flatten().long()]


def ranked(forms):
    return {r.form: r for r in scored_rows(forms, score(forms, IMAGES, lambda n: None))}


def test_figures_are_numpys():
    rows = ranked([form('a', looked_up(REFERENCE)), form('b', looked_up(OTHER))])
    labels = LABELS.numpy()
    for name, found in (('a', REFERENCE), ('b', OTHER)):
        order = np.argsort(-found.numpy(), 1)
        assert rows[name].top1 == pytest.approx(100 * np.mean(order[:, 0] == labels))
        assert rows[name].top5 == pytest.approx(
            100 * np.mean((order[:, :5] == labels[:, None]).any(1))
        )
    same = OTHER.argmax(1).eq(REFERENCE.argmax(1)).double().mean()
    assert rows['b'].agreement == pytest.approx(100 * float(same))
    error = (OTHER - REFERENCE).numpy()
    assert rows['b'].psnr_db == pytest.approx(
        10 * math.log10(REFERENCE.max() ** 2 / np.mean(error**2))
    )
    assert (rows['a'].agreement, rows['a'].psnr_db) == (100.0, None)


def test_figures_move_with_one_image():
    changed = REFERENCE.clone()
    changed[7] = changed[7].roll(1)
    rows = ranked(
        [
            form('a', looked_up(REFERENCE)),
            form('b', looked_up(changed)),
            form('c', looked_up(REFERENCE)),
        ]
    )
    assert rows['b'].agreement == pytest.approx(100 * (COUNT - 1) / COUNT)
    assert rows['c'].agreement == 100.0
    assert rows['c'].psnr_db == math.inf


def test_few_classes_have_no_top5():
    few = REFERENCE[:, :5]
    rows = ranked([form('a', looked_up(few))])
    assert rows['a'].top5 is None
    assert rows['a'].top1 is not None


def test_without_labels_nothing_is_right_or_wrong():
    scores = Scores({'a': REFERENCE, 'b': OTHER}, None)
    (row,) = scored_rows([form('b', looked_up(OTHER))], scores)
    assert row.top1 is None
    assert row.agreement is not None


def test_a_form_that_fails_is_listed_with_its_reason():

    def fail(pixels):
        raise ProgramError('takes another size')

    rows = ranked([form('a', fail, note='first'), form('b', looked_up(REFERENCE)), form('c', None)])
    assert rows['a'].note == 'first; not scored: takes another size'
    assert rows['b'].agreement == 100.0  # it is the reference now
    assert rows['c'].note == 'not scored: no class probabilities'
    assert rows['a'].top1 is rows['c'].top1 is None


def test_a_form_that_fails_later_counts_nowhere():

    def fail(pixels):
        if int(pixels[0]) >= 16:
            raise ProgramError('broke')
        return looked_up(REFERENCE)(pixels)

    rows = ranked([form('a', looked_up(REFERENCE)), form('b', fail)])
    assert rows['b'].top1 is None


def test_nothing_to_score_is_an_error():
    with pytest.raises(MobileOneExtError, match='no form gives class'):
        score([form('a', None)], IMAGES, lambda n: None)


def test_progress_counts_every_image():
    seen = []
    score([form('a', looked_up(REFERENCE))], IMAGES, seen.append)
    assert sum(seen) == COUNT


def test_bounds_are_checked_on_what_was_measured():
    near = REFERENCE + 1e-4 * OTHER
    forms = [
        form('a', looked_up(REFERENCE), 'export-fp16'),
        form('b', looked_up(near), 'export-fp16'),
        form('c', looked_up(OTHER), 'export-fp16'),
        form('d', looked_up(OTHER)),
    ]
    scores = score(forms, IMAGES, lambda n: None)
    found = {c.form: c for c in parity_checks(forms, scores)}
    assert sorted(found) == ['b', 'c']
    assert found['b'].met
    assert not found['c'].met
    assert found['b'].tolerance == 'export-fp16'
    assert '0.02' in found['b'].bound
    assert '99.8' in found['b'].bound
