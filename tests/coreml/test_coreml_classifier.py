"""The artifact as a test-time model: sizes, batches, features."""

from __future__ import annotations

import pytest
import torch
from format_kit import OTHER, SIZE, convert, error, network, oracle, pixels

from mmpretrain_mobileone_ext.coreml.classifier import CoreMLClassifier
from mmpretrain_mobileone_ext.errors import ProgramError


def scorer(path):
    return CoreMLClassifier(
        path=str(path), normalize=False, arithmetic='fp32', data_preprocessor=dict(to_rgb=True)
    )


@pytest.mark.parametrize('options', [{}, dict(input='tensor', batch_sizes=(1, 2))])
@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_every_size_the_file_takes(tmp_path, suffix, options):
    net = network()
    model = scorer(convert(net, tmp_path / f'm{suffix}', extra_sizes=(OTHER,), **options))
    for size in (SIZE, OTHER):
        batch = pixels(3, size)
        samples = model.test_step({'inputs': batch})
        found = torch.stack([s.pred_score for s in samples])
        wanted = oracle(net, batch)
        assert error({'classLabel_probs': found}, wanted) < 1e-5
        labels = torch.cat([s.pred_label for s in samples])
        assert torch.equal(labels, wanted['classLabel_probs'].argmax(1))
    with pytest.raises(ProgramError, match=r'takes one of .*\(1, 3, 48, 40\)'):
        model.test_step({'inputs': pixels(3, (40, 48))})


@pytest.mark.parametrize(('sample', 'batches'), [(1, (4, 3)), (3, (4, 4, 1, 3)), (5, (2, 2, 2, 2))])
def test_a_sample_is_spread_over_the_batches(tmp_path, sample, batches):
    path, images = convert(network(), tmp_path / 'm.mlmodel'), pixels(sum(batches))
    every = scorer(path).test_step({'inputs': images})
    model = CoreMLClassifier(
        path=str(path),
        normalize=False,
        arithmetic='fp32',
        sample=sample,
        data_preprocessor=dict(to_rgb=True),
    )
    found = [s for batch in images.split(batches) for s in model.test_step({'inputs': batch})]
    wanted = every[::sample]
    assert len(found) == len(wanted)
    assert model.sampled == (f'{len(wanted)} of {len(images)} images' if sample > 1 else '')
    for one, other in zip(found, wanted):
        assert torch.allclose(one.pred_score, other.pred_score)


@pytest.mark.parametrize('indices', [(0, 1), (1,)])
def test_features_are_no_class_scores(tmp_path, indices):
    net = network()
    net.backbone.out_indices = indices
    path = convert(net, tmp_path / 'm.mlmodel', outputs='features')
    with pytest.raises(ProgramError, match=r'not a classifier.*feature_1'):
        scorer(path).test_step({'inputs': pixels(2)})
