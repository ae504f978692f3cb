_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/fashion_mnist_bs64.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

# One conv branch and no 1x1 one: depth and width buy more here than branches
# in the minutes that a CPU has.
model = dict(
    backbone=dict(
        arch=dict(num_blocks=(2, 4, 1)),
        num_conv_branches=1,
        branches=('conv', 'skip'),
        base_channels=(64, 128, 256),
        stem_channels=32,
        in_channels=1),
    head=dict(in_channels=256))

optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
train_cfg = dict(max_epochs=8, val_interval=4)
_base_.param_scheduler[1].end = 8
_base_.custom_hooks[0].momentum = 0.01
default_hooks = dict(logger=dict(interval=50))
