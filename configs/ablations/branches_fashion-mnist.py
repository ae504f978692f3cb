# What do branches buy? The same folded network, trained in four ways:
#   python tools/ablate.py configs/ablations/branches_fashion-mnist.py
_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/fashion_mnist_bs64.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(in_channels=1))
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
train_cfg = dict(max_epochs=4, val_interval=4)
_base_.param_scheduler[1].end = 4
_base_.custom_hooks[0].momentum = 0.01
default_hooks = dict(logger=dict(interval=50))

ablation = dict(
    variants={
        'k = 4': {},
        'k = 1': {'model.backbone.num_conv_branches': 1},
        'one conv-BN, no other branch': {
            'model.backbone.num_conv_branches': 1,
            'model.backbone.branches': ('conv', ),
        },
        # Without norms it needs weights that keep the size of its input (the
        # usual fan-out is far too small for depthwise ones) and half the
        # learning rate.
        'folded from scratch': {
            'model.backbone.deploy': True,
            'model.backbone.init_cfg':
            [dict(type='Kaiming', layer=['Conv2d'], mode='fan_in')],
            'optim_wrapper.optimizer.lr': 0.05,
        },
    },
    seeds=(0, 1, 2))
