# The float network of the comparison:
#   mobileone-ext benchmark-quantization CONFIG
# Four conv branches a unit and a stem that halves the image, as S0's does, on
# the first 10 000 images: seconds an epoch.
_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/fashion_mnist_bs64.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(in_channels=1, stem_stride=2))
train_dataloader = dict(batch_size=128, dataset=dict(indices=10000))
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
train_cfg = dict(max_epochs=9, val_interval=9)
_base_.param_scheduler[1].end = 9
_base_.custom_hooks[0].momentum = 0.02
default_hooks = dict(logger=dict(interval=20))
