# The float network of the comparison:
#   mobileone-ext benchmark-quantization CONFIG
# Four conv branches a unit, on the first 10 000 images, seconds an epoch.
_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/fashion_mnist_bs64.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(in_channels=1))
train_dataloader = dict(batch_size=128, dataset=dict(indices=10000))
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
train_cfg = dict(max_epochs=6, val_interval=6)
_base_.param_scheduler[1].end = 6
_base_.custom_hooks[0].momentum = 0.02
default_hooks = dict(logger=dict(interval=20))
