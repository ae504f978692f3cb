# ImageNet with the augmentation of the larger variants at its full strength;
# DynamicRegularizationHook leads up to it.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=7,
        magnitude_std=0.5,
        # The mean, in the order in which images are loaded.
        hparams=dict(
            pad_val=[round(x) for x in _base_.data_preprocessor.mean[::-1]])),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    persistent_workers=True, dataset=dict(pipeline=train_pipeline))
