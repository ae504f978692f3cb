# SGD with a cosine schedule, averaged weights, and the folded network as the
# one that is validated and kept. A recipe sets the number of epochs with
#   train_cfg = dict(max_epochs=N); _base_.param_scheduler[1].end = N
optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        end=25,
        convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=25, val_interval=5)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    dict(
        type='EMAHook',
        momentum=0.05,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
    dict(type='EMALoadHook'),
    # Validation scores the folded network; training ends with *_deploy.pth.
    dict(type='DeploySwitchHook', when=('val', 'after_train')),
]
