# Image size and augmentation grow while the network trains; how strong the
# augmentation gets follows from the network's size.
_base_ = [
    '../_base_/models/mobileone_in1k.py',
    '../_base_/datasets/imagenet_bs32_randaug.py',
    '../_base_/schedules/imagenet_bs256_sgd_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(arch='s2'), head=dict(in_channels=2048))
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)

custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='DynamicRegularizationHook',
        strength='auto',
        phases=[
            dict(begin=0, resolution=160, magnitude=0.3),
            dict(begin=37, resolution=192, magnitude=0.7),
            dict(begin=112, resolution=224, magnitude=1.0),
        ]),
]
