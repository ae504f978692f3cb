# MobileOne for images of 28 to 64 pixels: stride 1 in the stem, three stages.
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
