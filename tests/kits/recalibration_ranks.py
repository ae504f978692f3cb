"""One rank of a recalibration: python this.py RANK INIT_FILE OUT."""

import sys

import torch
import torch.distributed as dist
from helpers import ToyImages, classifier_cfg, randomize_norms
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import mmpretrain_mobileone_ext  # noqa: F401
from mmpretrain_mobileone_ext.hooks.bn_recalibration import recalibrate

SIZES = ((4, 5), (6,))


def network():
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return randomize_norms(MODELS.build(classifier_cfg()))


def batches(rank):
    """Of this rank: other images, and other numbers of them."""
    return [
        pseudo_collate(list(ToyImages(size, seed=10 * rank + i)))
        for i, size in enumerate(SIZES[rank])
    ]


def main(rank, init_file, out):
    dist.init_process_group('gloo', init_method=f'file://{init_file}', rank=rank, world_size=2)
    model = network()
    used = recalibrate(model, batches(rank), 18)
    torch.save((used, model.state_dict()), f'{out}.{rank}')
    dist.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), *sys.argv[2:])
