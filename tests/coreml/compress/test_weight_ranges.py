"""Ranges of weights by channel, and what they do to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_kit import save_small, small_net
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmpretrain_mobileone_ext.coreml.compress.weights import Weight
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.report.layers import range_of, weight_ranges

RNG = np.random.default_rng(0)


def weight(values, depthwise=False, name='w'):
    return Weight(name, 'conv', values.astype(np.float32), depthwise, '', '')


def of_module(net):
    """Ranges of a module's weights, without a file."""
    found = []
    for name, part in net.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            values = part.weight.detach().numpy()
            depthwise = getattr(part, 'groups', 1) == len(values) > 1 == values.shape[1]
            found.append(range_of(weight(values, depthwise, name)))
    return sorted(found, key=lambda r: r.sqnr_tensor_db)


def test_figures_by_hand():
    rows = RNG.uniform(-1, 1, (5, 400))
    rows[:, 0], rows[:, 1] = 1, -1
    rows *= np.array([1, 1, 2, 64, 0])[:, None]
    found = range_of(weight(rows.reshape(5, 100, 2, 2)))
    assert found.channel_max == (1, 1, 2, 64, 0)
    assert found.ratio == pytest.approx(64 / 1.5)
    assert found.dead == 1
    assert found.shape == (5, 100, 2, 2)
    # Uniform in [-1, 1] with a step d: signal 1/3, noise d^2 / 12.
    each = 10 * np.log10(1 / 3 / ((2 / 255) ** 2 / 12))
    assert found.sqnr_channel_db == pytest.approx(each, abs=0.5)
    ones = [10 * np.log10(r**2 / 3 / ((128 / 255) ** 2 / 12)) for r in (1, 1, 2, 64)]
    assert found.sqnr_tensor_db == pytest.approx(np.median(ones), abs=1)


def test_why():
    flat = RNG.normal(size=(32, 64))
    assert range_of(weight(flat)).why == ''
    wide = flat.copy()
    wide[0] *= 40
    why = range_of(weight(wide)).why
    assert 'gamma / sqrt(var + eps)' in why
    assert 'of 8 bits' in why
    assert 'depthwise' not in why
    assert why.count('.') >= 1
    assert why.endswith('.')
    filters = RNG.normal(size=(32, 1, 3, 3))
    filters[0] *= 40
    assert 'a depthwise filter has 9 weights' in range_of(weight(filters, depthwise=True)).why
    spikes = RNG.normal(size=(8, 4000)) * 0.001
    spikes[:, 0] = 1
    assert 'Single weights are far larger' in range_of(weight(spikes)).why


def test_edges():
    zeros = range_of(weight(np.zeros((3, 4))))
    assert (zeros.ratio, zeros.dead, zeros.sqnr_tensor_db) == (1, 3, 120)
    exact = range_of(weight(np.array([[0.0, 255.0], [0.0, 510.0]])))
    assert exact.sqnr_channel_db == 120


def test_folding_makes_ranges():
    """The same filters, before and behind a normalization that differs."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16).eval()
    norm.running_var.data = torch.logspace(-4, 2, 16)
    folded = fuse_conv_bn_eval(conv.eval(), norm)
    (before,), (after,) = of_module(conv), of_module(folded)
    assert before.ratio < 2
    assert before.why == ''
    assert after.ratio > 10
    assert after.sqnr_tensor_db < before.sqnr_tensor_db - 10
    assert after.sqnr_channel_db == pytest.approx(before.sqnr_channel_db, abs=1)
    assert after.why


def test_file_and_module_agree(tmp_path):
    net = small_net()
    with torch.no_grad():
        net[4].weight[0] *= 50
    from_file = weight_ranges(read_program(save_small(tmp_path, net=net)))
    from_module = of_module(net)
    assert len(from_file) == len(from_module) == 6
    assert from_module[0].layer == '4'
    assert from_file[0].shape == (192, 16, 1, 1)
    for a, b in zip(from_file, from_module):
        assert a.shape == b.shape
        assert a.depthwise == b.depthwise
        assert a.ratio == pytest.approx(b.ratio, rel=1e-2)
        assert a.sqnr_tensor_db == pytest.approx(b.sqnr_tensor_db, abs=0.3)
    order = [r.sqnr_tensor_db for r in from_file]
    assert order == sorted(order)
    net[4].weight.data[0] /= 50
    assert of_module(net)[0].layer != '4' or of_module(net)[0].ratio < from_module[0].ratio / 10
