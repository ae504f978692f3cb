_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/fashion_mnist_bs128.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(num_blocks=(1, 3, 2)),
        num_conv_branches=1,
        base_channels=(32, 128, 256),
        in_channels=1),
    head=dict(in_channels=256))

optim_wrapper = dict(optimizer=dict(lr=0.2, weight_decay=2e-4))
train_cfg = dict(max_epochs=8, val_interval=2)
_base_.param_scheduler[1].end = 8
_base_.custom_hooks[0].momentum = 0.005
default_hooks = dict(logger=dict(interval=50))
