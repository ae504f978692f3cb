"""Non-maximum suppression against a loop over boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError


def drawn(count=24, classes=3, samples=2, seed=0):
    rng = np.random.default_rng(seed)
    center = rng.uniform(0, 10, (samples, count, 2))
    size = rng.uniform(1, 6, (samples, count, 2))
    boxes = np.concatenate([center, size], -1).astype(np.float32)
    scores = rng.permutation(samples * count * classes).astype(np.float32)
    return boxes, scores.reshape(samples, count, classes) / 10


def overlap(a, b):
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = np.prod(np.maximum(high - low, 0))
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def kept(boxes, scores, iou, most, least, per_class):
    """Indices of one sample."""
    best, kind = scores.max(-1), scores.argmax(-1)
    found = []
    for i in np.argsort(-best):
        rivals = [j for j in found if not per_class or kind[i] == kind[j]]
        if best[i] >= least and all(overlap(boxes[i], boxes[j]) <= iou for j in rivals):
            found.append(i)
    return (found or [int(best.argmax())])[:most]


@pytest.mark.parametrize('per_class', [False, True])
@pytest.mark.parametrize('iou', [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize('least', [-1.0, 8.0, 99.0])
def test_boxes_that_stay(iou, least, per_class):
    boxes, scores = drawn()
    for most in (1, 5, 40):
        found = OPS['non_maximum_suppression'](
            torch.tensor(boxes), torch.tensor(scores), iou, most, least, per_class
        )
        for i, (box, score) in enumerate(zip(boxes, scores)):
            wanted = kept(box, score, iou, most, least, per_class)
            n = len(wanted)
            assert found[3][i] == n
            assert found[2][i].tolist() == [*wanted, *[-1] * (most - n)]
            assert np.array_equal(found[0][i, :n], box[wanted])
            assert np.array_equal(found[1][i, :n], score[wanted])
            assert not found[0][i, n:].any()
            assert not found[1][i, n:].any()


@pytest.mark.parametrize('target', ['iOS16', 'iOS17', 'iOS18', 'iOS26'])
def test_saved_program(target, tmp_path):
    boxes, scores = drawn(samples=1)
    least = {'score_threshold': 4.0} if target == 'iOS16' else {}
    order = (0, 1, 2) if target == 'iOS16' else (0, 2, 1)

    def build(mb, boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=0.3,
            max_boxes=6,
            per_class_suppression=True,
            **least,
        )

    inputs = {'boxes': boxes.transpose(order), 'scores': scores.transpose(order)}
    loaded = load_program(save_mil(build, inputs, tmp_path, target))
    got = list(loaded.predict(inputs).values())
    wanted = kept(boxes[0], scores[0], 0.3, 6, 4.0 if least else -1, True)
    assert len(got) == (4 if least else 3)
    assert got[2][0, : len(wanted)].tolist() == wanted
    assert np.array_equal(got[0].transpose(order)[0, : len(wanted)], boxes[0, wanted])
    batch = loaded.predict_batch(
        {k: torch.tensor(np.stack([v[..., ::-1].copy(), v])) for k, v in inputs.items()}
    )
    for found, one in zip(batch.values(), got):
        assert np.array_equal(found[1].numpy().reshape(one.shape), one)


def test_boxes_without_area():
    """They overlap with nothing, not with each other either."""
    boxes = torch.zeros(1, 3, 4)
    found = OPS['non_maximum_suppression'](
        boxes, torch.tensor([[[1.0], [3.0], [2.0]]]), 0.1, 3, 0.0
    )
    assert found[2].tolist() == [[1, 2, 0]]


def test_numbers_that_do_not_fit():
    with pytest.raises(ProgramError, match='max_boxes is 0'):
        OPS['non_maximum_suppression'](torch.zeros(1, 3, 4), torch.zeros(1, 3, 1), 0.5, 0, 0.0)
    with pytest.raises(ProgramError, match=r'scores \(1, 2, 1\)'):
        OPS['non_maximum_suppression'](torch.zeros(1, 3, 4), torch.zeros(1, 2, 1), 0.5, 1, 0.0)
