"""Chosen on one half of the images, held to the bound on all."""

from dataclasses import replace

import pytest
import torch
from compress_kit import verified

from mmpretrain_mobileone_ext.coreml.compress.storage import INT8
from mmpretrain_mobileone_ext.coreml.compress.trial import Candidate
from mmpretrain_mobileone_ext.coreml.formats import MLProgram
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.compression import compress
from mmpretrain_mobileone_ext.export.data import Images, TestSplit
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.verify import VerifiedFile
from mmpretrain_mobileone_ext.utils.accuracy import Answers
from mmpretrain_mobileone_ext.utils.text import Steps

SIZES = {'plain': 900, 'lucky': 300, 'steady': 500}


class Judge:
    """'lucky' is wrong on 2 % of the images, all of them at odd places."""

    def __init__(self, images):
        self.images = images

    def on(self, images):
        return Judge(images)

    def score(self, path, precision):
        places = torch.tensor(self.images.indices)
        wrong = (places % 50 == 1) if path.stem == 'lucky' else places < 0
        exact = torch.eye(2)[places % 2 * 0]
        found = torch.where(wrong[:, None], exact.flip(1), exact)
        labels = torch.zeros(len(places), dtype=torch.int64)
        return replace(
            verified(exact, found, labels), answers=Answers(labels, found.argmax(1), labels)
        )


def candidate(name, tmp_path, kind='mixed'):
    plan = {} if kind == 'none' else dict(layer=INT8)
    return Candidate(
        name, kind, SIZES[name], 1.0, 1.0, 0.0, 0.0, True, plan, tmp_path / f'{name}.mlpackage'
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(count, max_drop):
        seen = []

        def search(self, source, folder, evaluate, baseline, budget, *more):
            seen.append(evaluate(source).parity.num_samples)
            found = tuple(
                candidate(n, tmp_path, k)
                for n, k in (('plain', 'none'), ('lucky', 'mixed'), ('steady', 'mixed'))
            )
            return replace(found[0], path=None), found[1], found[2]

        monkeypatch.setattr(MLProgram, 'search', search)
        images = Images('all images', (1, 3, 8, 8), TestSplit(), tuple(range(count)))
        judge, plain = Judge(images), tmp_path / 'plain.mlpackage'
        options = ExportOptions(out=tmp_path / 'm.mlpackage', compress='auto', max_drop=max_drop)
        made, found = compress(
            VerifiedFile(plain, judge.score(plain, 'fp16')), judge, options, tmp_path, Steps(False)
        )
        assert made.path == found.chosen.path
        assert found.plain.path == plain
        return made, found, seen[0]

    return run


def test_the_lucky_one_of_a_half_is_passed_over(run):
    _, found, scored = run(1000, 0.5)
    assert (scored, found.chosen_images) == (500, 500)
    assert found.scheme == 'steady'
    assert (found.tried, found.passed_over) == (2, 1)
    lucky = next(c for c in found.candidates if c.scheme == 'lucky')
    assert lucky.path is None
    assert lucky.reason == 'loses 2.00 points on all images'
    assert found.verdict.judged_apart
    assert (found.verdict.loss.images, found.verdict.loss.points) == (500, 0)


def test_the_other_half_tells_what_the_first_hides(run):
    made, found, _ = run(1000, 2.0)
    assert found.scheme == 'lucky'
    assert made.verification.top1_candidate == 0.98
    assert found.verdict.loss.points == 4
    assert found.verdict.level == 'bad'


@pytest.mark.parametrize(('count', 'max_drop'), [(56, 2.0), (400, 0.0), (398, 0.5)])
def test_too_few_images_are_not_halved(run, count, max_drop):
    _, found, scored = run(count, max_drop)
    assert scored == found.chosen_images == count
    assert not found.verdict.judged_apart
    assert found.verdict.loss.images == count


def test_a_half_is_spread_and_noise_has_none():
    images = Images('all', (1, 3, 8, 8), TestSplit(), (3, 4, 7, 9, 12))
    assert images.every_other().indices == (3, 7, 12)
    with pytest.raises(ExportError, match='cannot be halved'):
        Images('noise', (1, 3, 8, 8)).every_other()
