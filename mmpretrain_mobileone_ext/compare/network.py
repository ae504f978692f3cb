"""A network as it is deployed: branches and norms folded, and checked."""
from __future__ import annotations

import copy
import logging
from typing import Any, NamedTuple

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn

from ..benchmark.runtime_network import build_classifier
from ..models import switch_to_deploy
from ..parity import compare, fold_tolerance


class Complexity(NamedTuple):
    """Parameters, and multiply-adds of one image (what papers call FLOPs)."""
    params: int
    flops: int


def deployed(config: dict[str, Any], size: int) -> nn.Module:
    """Build a classifier with random weights and fold all that folds.

    Branches become one convolution, and a batch norm after a convolution
    becomes a part of it, in every family alike. Folded and compared in
    float64: random weights of a deep network blow rounding errors up.

    Args:
        config: of the classifier.
        size: of the images that norms are fitted to, in pixels.

    Returns:
        In eval mode, float32.

    Raises:
        ParityError: the folded network computes something else.
    """
    model = build_classifier(copy.deepcopy(config), size).double()
    images = example(size, 2).double()
    with torch.no_grad():
        before = model(images)
        # A deep copy: mmcv folds in place.
        folded = fuse_conv_bn(switch_to_deploy(model, inplace=False)).eval()
        parity = compare(before, folded(images))
    parity.require(fold_tolerance(torch.float64), 'the folded network')
    return folded.float().requires_grad_(False)


def example(size: int, count: int = 1) -> Tensor:
    """Seeded normal noise (N, 3, S, S), as normalized images are."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=rng)


def complexity(model: nn.Module, size: int) -> Complexity:
    """Count with mmengine's analysis at (1, 3, S, S)."""
    before = logging.root.manager.disable
    # It warns of activations and pooling, which papers do not count either.
    logging.disable(logging.WARNING)
    try:
        found = get_model_complexity_info(
            model, (3, size, size), show_table=False, show_arch=False)
    finally:
        logging.disable(before)
    return Complexity(int(found['params']), int(found['flops']))
