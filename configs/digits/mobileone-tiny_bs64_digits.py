# MobileOne for small images: stride 1 in the stem, three stages, 4 branches.
_base_ = [
    '../_base_/datasets/digits_bs64.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='DeployableClassifier',
    backbone=dict(
        type='ConfigurableMobileOne',
        arch=dict(num_blocks=(1, 2, 1), width_factor=1.0),
        num_conv_branches=4,
        base_channels=(32, 64, 128),
        stem_stride=1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss'),
        topk=(1, 5)))

optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        end=25,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=25, val_interval=5)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(save_best='auto', max_keep_ckpts=2))
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=0.05,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
    # Validation scores the folded network; training ends with *_deploy.pth.
    dict(type='DeploySwitchHook', when=('val', 'after_train')),
]
