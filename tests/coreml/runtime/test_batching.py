"""Batches that go in as one input, and the rest one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runtime_kit import relative_error, save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import Feature
from mmpretrain_mobileone_ext.coreml.runtime.loaded import check_outputs, chunks, samples
from mmpretrain_mobileone_ext.errors import ProgramError


def feature(*sizes, ranges=()):
    shapes = tuple((n, 3, 4) for n in sizes)
    return Feature('x', 'tensor', shapes[0], 'fp32', None, shapes, ranges)


@given(st.sets(st.integers(2, 9)), st.integers(1, 40), st.integers(1, 12))
def test_every_sample_once_in_allowed_numbers(sizes, count, limit):
    """The program gets whole batches it takes, the largest first."""
    batch = {'x': samples(torch.zeros(count, 3, 4), feature(1, *sizes))}
    found = list(chunks(batch, limit))
    ends = [c.stop for c in found]
    assert [c.start for c in found] == [0, *ends[:-1]]
    assert ends[-1] == count
    lengths = [c.stop - c.start for c in found]
    for chunk, length in zip(found, lengths):
        assert length <= limit
        assert not chunk.as_one or length in sizes
    whole = [n for c, n in zip(found, lengths) if c.as_one]
    assert whole == sorted(whole, reverse=True)
    rest = count - sum(whole)
    assert not any(n <= min(rest, limit) for n in sizes)


def test_samples_alone():
    """A whole input a sample, or without the dimension of 1."""
    for shape in ((5, 3, 4), (5, 1, 3, 4)):
        found = samples(torch.zeros(shape), feature(1))
        assert (found.alone, found.together) == ((1, 3, 4), frozenset())
    plain = Feature('x', 'tensor', (3, 4))
    assert samples(torch.zeros(5, 3, 4), plain).alone == (3, 4)
    # (3, 4) does not say that its first dimension counts samples.
    with pytest.raises(ProgramError, match=r'exactly \(3, 4\)'):
        samples(torch.zeros(3, 4), plain)


def test_a_range_of_batches():
    ranged = feature(1, ranges=((1, 4), (3, 3), (4, 4)))
    found = samples(torch.zeros(9, 3, 4), ranged)
    assert found.together == {2, 3, 4}


def test_samples_that_do_not_fit():
    with pytest.raises(
        ProgramError,
        match=r'\(2, 4, 3\); the model takes '
        r'one of \(1, 3, 4\), \(2, 3, 4\)',
    ):
        samples(torch.zeros(2, 4, 3), feature(1, 2))
    with pytest.raises(
        ProgramError,
        match=r'output .y. has shape \(6,\) '
        'for a batch of 3',
    ):
        check_outputs({'y': torch.zeros(6)}, 3)


class Centred(nn.Module):
    """Subtracts the mean of all samples: one batch is not three inputs."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('kind', ['mlprogram', 'neuralnetwork'])
def test_a_declared_batch_is_one_input(tmp_path, kind):
    net, ct = Centred().eval(), quiet.coremltools()
    shapes = ct.EnumeratedShapes([(1, 2, 3), (3, 2, 3)])
    path = save_torch(
        net,
        tmp_path,
        torch.rand(1, 2, 3),
        kind=kind,
        inputs=[ct.TensorType(name='x', shape=shapes, dtype=np.float32)],
        outputs=[ct.TensorType(name='centred')],
    )
    loaded = load_program(path)
    x = torch.randn(5, 2, 3)
    whole = loaded.predict({'x': x[:3]})['centred']
    assert relative_error(whole, net(x[:3])) < 1e-6
    found = loaded.predict_batch({'x': x})['centred']
    assert relative_error(found[:3], net(x[:3])) < 1e-6
    assert torch.equal(found[3:], torch.zeros(2, 2, 3))
    # With room for two samples the batch of three never goes in.
    few = loaded.predict_batch({'x': x}, chunk_size=2)['centred']
    assert torch.equal(few, torch.zeros(5, 2, 3))
    with pytest.raises(ProgramError, match=r'\(2, 2, 3\); the model takes'):
        loaded.predict({'x': x[:2]})


def test_a_classifier_takes_one_sample(tmp_path):
    """As Core ML does, whatever batches the file declares."""
    ct = quiet.coremltools()
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Softmax(1)).eval()
    shapes = ct.EnumeratedShapes([(1, 2, 3), (3, 2, 3)])
    path = save_torch(
        net,
        tmp_path,
        torch.rand(1, 2, 3),
        kind='neuralnetwork',
        inputs=[ct.TensorType(name='x', shape=shapes, dtype=np.float32)],
        classifier_config=ct.ClassifierConfig(['a', 'b', 'c']),
    )
    loaded = load_program(path)
    x = torch.randn(4, 2, 3)
    with pytest.raises(ProgramError, match='one sample at a time'):
        loaded.predict({'x': x[:3]})
    name = loaded.program.predicted_probabilities_name
    with torch.no_grad():
        wanted = net(x)
    assert relative_error(loaded.predict_batch({'x': x})[name], wanted) < 1e-6
