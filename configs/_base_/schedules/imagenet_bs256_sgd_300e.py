# The paper's schedule (section 4.1): 300 epochs of 256 images, 5 of them warm
# up; weight decay falls from 1e-4 to 1e-5 along a cosine, none on norms and
# biases; averaged weights at 0.9995.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.001,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=295,
        eta_min=1e-6,
        by_epoch=True,
        begin=5,
        end=300),
    # A ratio, not eta_min: that would raise the 0 of norms and biases to it.
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min_ratio=0.1,
        by_epoch=True,
        begin=0,
        end=300),
]
# Weight decay ends at 1e-5, which the default of four digits logs as 0.
log_processor = dict(num_digits=6)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# The learning rate is for 256 images a step, over all GPUs.
auto_scale_lr = dict(base_batch_size=256)

custom_hooks = [
    dict(
        type='EMAHook',
        momentum=5e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
    dict(type='EMALoadHook'),
    # Validation scores the folded network; training ends with *_deploy.pth.
    dict(type='DeploySwitchHook', when=('val', 'after_train')),
    dict(type='TrainThroughputHook', interval=100),
]
