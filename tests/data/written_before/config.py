custom_imports = dict(imports=['mmpretrain_mobileone_ext'])
default_scope = 'mmpretrain'
model = dict(
    type='DeployableClassifier',
    backbone=dict(
        type='ConfigurableMobileOne',
        arch=dict(num_blocks=(1, 1), width_factor=0.125),
        num_conv_branches=2,
        stem_stride=1,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=3, in_channels=16, loss=dict(type='CrossEntropyLoss')
    ),
    data_preprocessor=dict(
        mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], to_rgb=True, num_classes=3
    ),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=16), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root='data',
        data_prefix='train',
        with_label=True,
        pipeline=pipeline,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='data',
        data_prefix='test',
        with_label=True,
        pipeline=pipeline,
    ),
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1,))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
param_scheduler = dict(type='CosineAnnealingLR', T_max=1)
custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='DeploySwitchHook')]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='auto'))
randomness = dict(seed=0)
