"""MIL control flow, and non-maximum suppression.

The executor hands them each block as a function of the block's inputs. Which block runs, and how
often, depends on numbers: unless they are constants, shapes are known no earlier than they are
computed. Every step of every iteration counts as work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional, Union

import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op

Block = Callable[..., tuple[Tensor, ...]]


@op('cond')
def cond(pred: Union[bool, Tensor], blocks: Sequence[Block]) -> tuple[Tensor, ...]:
    """Results of the first block if ``pred`` is true, else of the second."""
    when_true, when_false = blocks
    return when_true() if _truth(pred) else when_false()


@op('while_loop')
def while_loop(loop_vars: Sequence[Tensor], blocks: Sequence[Block]) -> tuple[Tensor, ...]:
    """``while condition(*v): v = body(*v)``; returns the last ``v``.

    Raises:
        ProgramError: If the condition is not one value.
    """
    condition, body = blocks
    values = tuple(loop_vars)
    while _truth(*condition(*values)):
        values = body(*values)
    return values


def _truth(*given: Union[bool, Tensor]) -> bool:
    if len(given) != 1 or (isinstance(given[0], Tensor) and given[0].numel() != 1):
        raise ProgramError('the condition of a cond or while_loop must be one value')
    return bool(given[0])


@op('non_maximum_suppression')
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: Optional[float] = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Boxes by falling score, without those that overlap a better one.

    The score of a box is that of its best class. A box whose overlap (IoU) with a box before it is
    above ``iou_threshold`` goes; with ``per_class_suppression`` only boxes of the same best class
    matter. If no score reaches ``score_threshold``, the best box is returned, as by Apple's
    reference. Missing boxes are 0, and their indices -1.

    Args:
        boxes (Tensor): (n, B, 4): center x, center y, width, height.
        scores (Tensor): (n, B, K).
        score_threshold (float | None): None from iOS 17 on, which also has (n, 4, B) and (n, K, B).

    Returns:
        tuple: boxes (n, ``max_boxes``, 4) and scores (n, ``max_boxes``, K),
        from iOS 17 on (n, 4, ``max_boxes``) and (n, K, ``max_boxes``); indices, int32 (n,
        ``max_boxes``); before iOS 17, their number, int32 (n).

    Raises:
        ProgramError: If ``max_boxes`` is less than 1 or shapes do not fit.
    """
    newer = score_threshold is None
    if newer:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    if max_boxes < 1 or boxes.shape[:2] != scores.shape[:2]:
        raise ProgramError(
            f'max_boxes is {max_boxes}, boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}; '
            'allowed: >= 1, and as many scores as boxes'
        )
    chosen = _chosen(
        boxes, scores, iou_threshold, max_boxes, score_threshold, per_class_suppression
    )
    missing = (chosen < 0).unsqueeze(-1)
    found = [_taken(value, chosen).masked_fill(missing, 0) for value in (boxes, scores)]
    if newer:
        return (*(v.transpose(1, 2) for v in found), chosen.to(torch.int32))
    count = (chosen >= 0).sum(1)
    return (*found, chosen.to(torch.int32), count.to(torch.int32))


def _taken(value: Tensor, chosen: Tensor) -> Tensor:
    index = chosen.clamp(min=0).unsqueeze(-1)
    return value.gather(1, index.expand(-1, -1, value.shape[2]))


def _chosen(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: Optional[float],
    per_class: bool,
) -> Tensor:
    """Indices (n, max_boxes) of the boxes that stay, -1 for none."""
    best, kind = scores.max(-1)
    left = torch.ones_like(best, dtype=torch.bool)
    if score_threshold is not None:
        left = best >= score_threshold
        first = torch.zeros_like(left).scatter(1, best.argmax(1, keepdim=True), True)
        left = torch.where(left.any(1, keepdim=True), left, first)
    found = []
    for _ in range(min(max_boxes, boxes.shape[1])):
        top = best.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
        # Among boxes of score -inf, those that are left come first.
        first_left = left.to(torch.uint8).argmax(1, keepdim=True)
        top = torch.where(left.gather(1, top), top, first_left)
        found.append(torch.where(left.any(1, keepdim=True), top, -1))
        gone = _overlap(boxes, top) > iou_threshold
        if per_class:
            gone = gone & (kind == kind.gather(1, top))
        left = left & ~gone
        left = left.scatter(1, top, False)
    result = torch.cat(found, 1)
    return torch.nn.functional.pad(result, [0, max_boxes - result.shape[1]], value=-1)


def _overlap(boxes: Tensor, index: Tensor) -> Tensor:
    """IoU (n, B) of all boxes with one of each sample; 0 without area."""
    one = _taken(boxes, index)
    low = torch.maximum(boxes[..., :2] - boxes[..., 2:] / 2, one[..., :2] - one[..., 2:] / 2)
    high = torch.minimum(boxes[..., :2] + boxes[..., 2:] / 2, one[..., :2] + one[..., 2:] / 2)
    common = (high - low).clamp(min=0).prod(-1)
    total = boxes[..., 2:].prod(-1) + one[..., 2:].prod(-1) - common
    return torch.where(total > 0, common / total, 0)
