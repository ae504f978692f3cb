"""The bound of a file, and networks that amplify rounding."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from export_kit import CLASSES, build, switched

from mmpretrain_mobileone_ext.coreml.convert import convert_and_save
from mmpretrain_mobileone_ext.errors import ParityError
from mmpretrain_mobileone_ext.export.data import Images
from mmpretrain_mobileone_ext.export.network import prepare
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.verify import Judge, classifier, in_double, own_rounding
from mmpretrain_mobileone_ext.models.preprocessing import read_preprocessing

SIZE = (32, 32)


@torch.no_grad()
def amplifying(gain):
    """All logits have a large part in common, which softmax takes away."""
    model = switched(build())
    generator = torch.Generator().manual_seed(1)
    weight = model.head.fc.weight
    weight += gain * torch.randn(weight.shape[1], generator=generator)
    return model


class Exported:
    """A network, its file in fp32, and what compares them."""

    def __init__(self, model, folder, converted=None):
        self.pre = read_preprocessing(model.data_preprocessor, 3, SIZE, 'BGR')
        self.images = Images('noise', self.pre.shape)
        self.model = model
        self.path = folder / 'model.mlpackage'
        convert_and_save(
            prepare(converted or model, self.pre),
            self.pre,
            CLASSES,
            ExportOptions(self.path, precision='fp32'),
            self.path,
        )

    def score(self, exact=True):
        def double():
            return classifier(in_double(self.model), torch.float64)

        judge = Judge(classifier(self.model), self.pre, self.images, double if exact else None)
        return judge.score(self.path, 'fp32')


@pytest.fixture(scope='module')
def amplified(tmp_path_factory):
    return Exported(amplifying(3e3), tmp_path_factory.mktemp('amplified'))


def test_the_bound_knows_the_networks_own_rounding(amplified):
    found = amplified.score()
    assert found.rounding > 1e-4
    assert found.parity.relative <= 4 * found.rounding
    assert found.failure is None
    found.require()


def test_without_it_the_file_is_refused(amplified):
    """The network is one whose file the plain bound does not fit."""
    found = amplified.score(exact=False)
    assert found.rounding is None
    assert found.parity.relative > 1e-4
    with pytest.raises(ParityError, match=r'exceeds 0\.0001'):
        found.require()


def test_real_differences_are_refused(amplified, tmp_path):
    """As ever, and where the network amplifies rounding."""
    other = copy.deepcopy(amplified.model)
    with torch.no_grad():
        other.head.fc.bias[0] += 0.02
    found = Exported(amplified.model, tmp_path, other).score()
    assert found.rounding > 1e-4
    with pytest.raises(ParityError, match='relative error'):
        found.require()


def test_rounding_is_measured_where_it_matters_only(tmp_path):
    found = Exported(switched(build()), tmp_path).score()
    assert found.failure is None
    assert found.rounding is None
    assert found.bound.max_relative == 1e-4


def test_no_rounding_excuses_more_than_fp16_may_differ(amplified):
    found = replace(amplified.score(), rounding=0.5)
    assert found.bound.max_relative == 2e-2
    assert found.bound.min_agreement == 1


def test_networks_that_know_no_fp64(amplified):
    def exact():
        raise RuntimeError('expected Float, got Double')

    wanted = {'classLabel_probs': torch.ones(1, 3)}
    assert own_rounding(exact, amplified.images, wanted) is None
    assert own_rounding(None, amplified.images, wanted) is None
