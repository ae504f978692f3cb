"""Compression of a network that was really trained: scikit-learn's digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_kit import save_small, scores_of, verified
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmpretrain_mobileone_ext.coreml.compress import SCHEMES, compress_file, tolerance_for
from mmpretrain_mobileone_ext.coreml.compress.search import search
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.utils.files import tree_bytes

pytestmark = pytest.mark.slow

TEST = 540
BUDGET = 0.5


def unit(inputs, outputs, kernel, stride=1, groups=1):
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def network():
    """A stem and two depthwise separable units, as MobileOne has them."""
    return nn.Sequential(
        *unit(1, 32, 3),
        *unit(32, 32, 3, 2, 32),
        *unit(32, 96, 1),
        *unit(96, 96, 3, 2, 96),
        *unit(96, 192, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


def trained(images, labels):
    """Some seconds of training, then folded."""
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=0.02)
    rounds, size = 15, 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, rounds * (len(images) // size))
    for _ in range(rounds):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - size + 1, size):
            part = order[start : start + size]
            loss = nn.functional.cross_entropy(net(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    layers = list(net)
    folded = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded, nn.Softmax(1)).eval()


class Digits:
    """The network, its file, and the scores of files on the test split."""

    def __init__(self, folder):
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels.reshape(-1, 1, 8, 8) / 16).float()
        labels = torch.tensor(labels)
        order = torch.tensor(np.random.default_rng(0).permutation(1797))
        train, test = order[TEST:], order[:TEST]
        self.net = trained(images[train], labels[train])
        self.images, self.labels = images[test], labels[test]
        ct = quiet.coremltools()
        shape = (1, 1, 8, 8)
        self.source = save_small(
            folder,
            net=self.net,
            example=torch.rand(shape),
            inputs=[ct.TensorType('image', shape=shape)],
        )
        with torch.no_grad():
            self.reference = self.net(self.images)
        self.baseline = self.evaluate(self.source)

    def evaluate(self, path):
        scores = scores_of(path, {'image': self.images})
        return verified(self.reference, scores, self.labels)

    def drop(self, path):
        """Percentage points of top-1 below the fp16 file."""
        return 100 * (self.baseline.top1_candidate - self.evaluate(path).top1_candidate)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp('digits'))


@pytest.fixture(scope='module')
def found(digits, tmp_path_factory):
    return search(
        digits.source,
        tmp_path_factory.mktemp('search'),
        digits.evaluate,
        digits.baseline,
        BUDGET,
        'iOS16',
    )


def test_the_network_is_worth_compressing(digits):
    assert digits.baseline.top1_reference > 0.95
    assert digits.baseline.parity.top1_agreement >= 0.999
    assert digits.baseline.top1_candidate == pytest.approx(digits.baseline.top1_reference, abs=1e-3)


@pytest.mark.parametrize(
    ('scheme', 'points'),
    [('int8', 0.2), ('palettize8', 0.2), ('palettize6', 0.5), ('palettize4', 1.0)],
)
def test_fixed_schemes_cost_little(digits, scheme, points, tmp_path):
    out = compress_file(digits.source, scheme, tmp_path / 'out.mlpackage')
    drop = digits.drop(out)
    assert drop <= points
    assert tolerance_for(scheme).failure(drop, TEST) is None
    assert tree_bytes(out) < 0.9 * tree_bytes(digits.source)


def test_one_bit_costs_more(digits, tmp_path):
    """The bounds above can be missed."""
    out = compress_file(digits.source, 'palettize1', tmp_path / 'out.mlpackage')
    assert digits.drop(out) > 1.0
    assert tolerance_for('palettize4').failure(digits.drop(out), TEST)


def test_auto_is_smaller_than_every_fixed_scheme_that_fits(digits, found):
    (best,) = (c for c in found if c.path)
    assert best.drop_points <= BUDGET
    assert digits.drop(best.path) == pytest.approx(best.drop_points)
    fixed = {c.scheme: c for c in found if c.kind == 'fixed'}
    # int4 needs iOS 18: no file of iOS 16 holds it.
    assert set(fixed) == set(SCHEMES) - {'joint', 'w8a8', 'int4'}
    fitting = [c for c in fixed.values() if c.fits]
    assert {'int8', 'palettize8', 'palettize6'} <= {c.scheme for c in fitting}
    assert not all(c.fits for c in fixed.values())
    for candidate in fitting:
        assert best.size_bytes < candidate.size_bytes
        assert candidate.drop_points <= BUDGET
    assert tree_bytes(best.path) == best.size_bytes
    assert len(found) <= 61
