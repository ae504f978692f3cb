# Small variants train with crops and flips alone (paper, section 3.3).
_base_ = [
    '../_base_/models/mobileone_in1k.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    '../_base_/schedules/imagenet_bs256_sgd_300e.py',
    '../_base_/default_runtime.py',
]

train_dataloader = dict(persistent_workers=True)
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
