"""Images on which forms disagree: which, in what order, how they look."""

import io
import math

import numpy as np
import torch
from PIL import Image

from mmpretrain_mobileone_ext.export.data import Images
from mmpretrain_mobileone_ext.report import FormRow
from mmpretrain_mobileone_ext.report.score import (
    Scores,
    _png,
    confusion_of,
    disagreements,
    worst_mistakes,
)

NOISE = Images('noise', (1, 3, 8, 8))
COUNT = 16
NAMES = ('ant', 'bee', 'cat')


def one_hot(labels):
    return torch.eye(3)[torch.tensor(labels)] * 0.7 + 0.1


def case(**odd):
    """Scores where form k has label 1 at the given places, else 0."""
    found = {'ref': one_hot([0] * COUNT)}
    for name, places in odd.items():
        found[name] = one_hot([int(i in places) for i in range(COUNT)])
    return Scores(found, torch.zeros(COUNT, dtype=torch.long))


def found(scores, most=12, kinds=None):
    rows = [FormRow(name, (kinds or {}).get(name, 'coreml')) for name in scores.probabilities]
    return disagreements(scores, rows, NOISE, NAMES, 'RGB', most)


def test_the_steadiest_forms_come_first():
    scores = case(wild=range(2, 16), steady=[4])
    shown, count = found(scores)
    assert count == 14
    assert shown[0].index == 4
    assert [d.index for d in shown[1:4]] == [2, 3, 5]


def test_order_is_that_of_the_formula():
    odd = dict(a=[0, 1, 2, 3], b=[2, 3, 9], c=[9], d=range(16))
    scores = case(**odd)
    weight = {
        i: sum(-math.log(len(p) / COUNT) for p in odd.values() if i in p) for i in range(COUNT)
    }
    wanted = sorted(weight, key=lambda i: (-weight[i], i))
    shown, count = found(scores, most=16)
    assert count == 16  # form d differs everywhere
    assert [d.index for d in shown] == wanted


def test_none_and_few():
    assert found(case(a=[]))[0] == []
    assert found(case(a=[]))[1] == 0
    shown, count = found(case(a=[1, 2, 3]), most=2)
    assert (len(shown), count) == (2, 3)


def test_checks_do_not_count():
    scores = case(a=[1], b=[2, 3])
    shown, count = found(scores, kinds={'b': 'check'})
    assert count == 1
    assert [g.form for g in shown[0].guesses] == ['ref', 'a']


def test_every_form_says_its_label():
    shown, _ = found(case(a=[5], b=[5, 6]))
    image = next(d for d in shown if d.index == 6)
    assert image.truth == 'ant'
    assert [(g.form, g.label, g.right, g.differs) for g in image.guesses] == [
        ('ref', 'ant', True, False),
        ('a', 'ant', True, False),
        ('b', 'bee', False, True),
    ]
    assert all(abs(g.probability - 80) < 1e-3 for g in image.guesses)


def test_without_labels_and_names():
    scores = case(a=[5])
    bare = Scores(scores.probabilities, None)
    rows = [FormRow('ref'), FormRow('a')]
    shown, _ = disagreements(bare, rows, NOISE, (), None, 3)
    assert shown[0].truth is None
    assert [g.label for g in shown[0].guesses] == ['0', '1']
    assert all(g.right is None for g in shown[0].guesses)


def test_the_picture_is_the_image_at_that_place():
    pixels = next(NOISE.chunks())[0]
    shown, _ = found(case(a=[11]))
    array = np.array(Image.open(io.BytesIO(shown[0].png)))
    assert (array == pixels[11].permute(1, 2, 0).numpy()).all()
    assert not (array == pixels[10].permute(1, 2, 0).numpy()).all()


def test_colours_are_those_of_the_file():
    red = torch.zeros(3, 4, 5, dtype=torch.uint8)
    red[2] = 200  # as mmcv loads it: blue, green, red
    image = Image.open(io.BytesIO(_png(red, 'BGR')))
    assert image.size == (5, 4)
    assert image.getpixel((0, 0)) == (200, 0, 0)
    assert Image.open(io.BytesIO(_png(red[:1], None))).mode == 'L'
    assert Image.open(io.BytesIO(_png(red[:2], None))).mode == 'L'


def sure(*rows):
    """Scores of one form, all images of class 0."""
    return Scores({'a': torch.tensor(rows)}, torch.zeros(len(rows), dtype=torch.long))


def mistakes(scores, most=10):
    return worst_mistakes(scores, 'a', NOISE, NAMES, 'RGB', most)


def test_the_surest_mistakes_come_first_and_right_labels_never():
    rows = [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.0, 0.05, 0.95], [0.4, 0.5, 0.1]]
    rows += [[1.0, 0.0, 0.0]] * (COUNT - len(rows))
    found = mistakes(sure(*rows))
    assert [m.index for m in found] == [2, 1, 3]
    assert [(m.truth, m.label) for m in found] == [('ant', 'cat'), ('ant', 'bee'), ('ant', 'bee')]
    assert math.isclose(found[0].probability, 95, rel_tol=1e-6)
    assert math.isclose(found[1].truth_probability, 30, rel_tol=1e-6)
    assert all(m.png.startswith(b'\x89PNG') for m in found)
    assert [m.index for m in mistakes(sure(*rows), most=1)] == [2]


def test_without_labels_there_are_no_mistakes():
    scores = Scores({'a': torch.eye(3)}, None)
    assert mistakes(scores) == []
    assert confusion_of(scores, 'a', NAMES) is None
