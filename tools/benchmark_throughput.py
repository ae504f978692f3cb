"""Throughput through runner.test(), as a script to copy from.

Runs as it is, without a data set: it generates images. With ImageNet at hand, set data_root to it
and leave write_fake_imagenet out.
"""

import sys

from mmpretrain_mobileone_ext.commands.cli import ToolParser, guarded

IMAGES, BATCH, DATA = 256, 32, 'data/fake-imagenet'


def config() -> dict:
    return dict(
        default_scope='mmpretrain',
        work_dir='work_dirs/throughput',
        model=dict(
            type='DeployableClassifier',
            data_preprocessor=dict(
                mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
            ),
            backbone=dict(type='ConfigurableMobileOne', arch='s1'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=1280),
        ),
        test_dataloader=dict(
            batch_size=BATCH,
            num_workers=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='ImageNet',
                data_root=DATA,
                split='val',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='ResizeEdge', scale=256, edge='short'),
                    dict(type='CenterCrop', crop_size=224),
                    dict(type='PackInputs'),
                ],
            ),
        ),
        test_evaluator=dict(type='Accuracy', topk=(1, 5)),
        test_cfg=dict(),
        # Measure what ships: a folded copy.
        custom_hooks=[
            dict(type='DeploySwitchHook', when=['test']),
            dict(type='ThroughputHook', warmup=2),
        ],
    )


def main() -> None:
    ToolParser(description=__doc__).parse_args()
    from mmengine.runner import Runner

    import mmpretrain_mobileone_ext  # noqa: F401  (registers)
    from mmpretrain_mobileone_ext.commands.benchmark.fake_data import write_fake_imagenet

    write_fake_imagenet(DATA, IMAGES)
    metrics = Runner.from_cfg(config()).test()
    print(f'throughput: {metrics["throughput"]:.1f} img/s')


if __name__ == '__main__':
    sys.exit(guarded(main))
