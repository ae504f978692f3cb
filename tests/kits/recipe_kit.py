"""See what a training really does: in its workers and in its optimizer."""

import os
import signal
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.datasets.transforms.auto_augment import BaseAugTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

STAMP = dict(type='Stamp', magnitude_range=(0, 100))


@TRANSFORMS.register_module(force=True)
class Stamp(BaseAugTransform):
    """Writes the magnitude level it works with onto the image's record."""

    def transform(self, results):
        results['stamp'] = float(self.magnitude_level)
        return results


@dataclass
class Seen:
    """What was seen in one epoch."""

    sizes: set = field(default_factory=set)
    stamps: set = field(default_factory=set)
    norm_decay: set = field(default_factory=set)
    bias_decay: set = field(default_factory=set)
    conv_decay: set = field(default_factory=set)


@HOOKS.register_module(force=True)
class Observe(Hook):
    """Looks at each batch that comes out of the loader."""

    seen: dict = {}

    def before_run(self, runner):
        type(self).seen = defaultdict(Seen)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seen = self.seen[runner.epoch]
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples']):
            seen.sizes.add(tuple(image.shape[-2:]))
            seen.stamps.add(sample.metainfo.get('stamp'))
        norms = {
            id(p)
            for m in runner.model.modules()
            if isinstance(m, _BatchNorm)
            for p in m.parameters()
        }
        for group in runner.optim_wrapper.param_groups:
            for parameter in group['params']:
                if not parameter.requires_grad:
                    continue
                found = (
                    seen.norm_decay
                    if id(parameter) in norms
                    else seen.conv_decay
                    if parameter.ndim > 1
                    else seen.bias_decay
                )
                found.add(group['weight_decay'])


@HOOKS.register_module(force=True)
class Stop(Hook):
    """Ends a run in the middle of an epoch, as a crash would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.epoch == self.epoch:
            raise InterruptedError


@HOOKS.register_module(force=True)
class Die(Hook):
    """Kills its process in the middle of an epoch, on one rank.

    Before an iteration, in which the others wait for it: after the last one they might save the
    epoch first.
    """

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_iter(self, runner, batch_idx, *args, **kwargs):
        if runner.epoch == self.epoch and batch_idx and runner.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def write_images(folder, size=64, count=6):
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / 'ab'[index % 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size, size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def on_few_images(cfg, folder, epochs):
    """A recipe on a folder of images: few steps, all hooks, real workers."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=3, num_workers=1, persistent_workers=True)
        loader.dataset = dict(
            type='CustomDataset',
            data_root=str(folder),
            data_prefix='',
            pipeline=stamped(loader.dataset.pipeline),
        )
    for schedule in cfg.param_scheduler:
        schedule.by_epoch = True
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='Observe')]
    cfg.default_hooks.logger.interval = 1
    return cfg


def stamped(pipeline):
    """The same, with a stamp in RandAugment's place and on each sample."""
    for transform in pipeline:
        if transform['type'] == 'RandAugment':
            transform.update(policies=[STAMP], num_policies=1)
        if transform['type'] == 'PackInputs':
            transform['meta_keys'] = ('stamp',)
    return pipeline
