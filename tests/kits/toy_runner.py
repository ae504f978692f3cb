"""A real mmengine Runner on toy images, in under a second."""

from itertools import count

from helpers import classifier_cfg
from mmengine.config import Config
from mmengine.runner import Runner

_NAMES = count()


def loader(size, seed, shuffle=False):
    return dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='ToyImages', size=size, seed=seed),
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
    )


def toy_cfg(work_dir, *hooks, epochs=2, **options):
    """Two epochs of three iterations, validated and saved after each."""
    cfg = dict(
        default_scope='mmpretrain',
        work_dir=str(work_dir),
        model=classifier_cfg(),
        train_dataloader=loader(12, 0, shuffle=True),
        val_dataloader=loader(9, 1),
        test_dataloader=loader(9, 1),
        val_evaluator=dict(type='MeanTopScore'),
        test_evaluator=dict(type='MeanTopScore'),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', save_best='score', rule='greater', interval=1),
            logger=dict(type='LoggerHook', interval=100),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=0, deterministic=False),
        log_level='WARNING',
        # mmengine keeps its message hubs by this name, for the process.
        experiment_name=f'toy{next(_NAMES)}',
    )
    cfg.update(options)
    return Config(cfg)


def toy_runner(*args, **kwargs):
    return Runner.from_cfg(toy_cfg(*args, **kwargs))
