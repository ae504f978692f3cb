# Quantization-aware training from trained weights: what ships has weights and
# activations of 8 bits (arXiv 1712.05877, section 3). A few epochs at 4 % of
# the rate that trains from nothing, along a cosine (arXiv 1806.08342, section
# 5). Weight decay is that with which the float schedule ends.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.004, momentum=0.9, weight_decay=1e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max=15,
        eta_min=1e-6,
        by_epoch=True,
        begin=0,
        end=15,
        convert_to_iter_based=True),
]
log_processor = dict(num_digits=6)
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# The learning rate is for 256 images a step, over all GPUs.
auto_scale_lr = dict(base_batch_size=256)

custom_hooks = [
    dict(type='QuantizationHook', weights=8, activations=8, start=0),
    dict(
        type='EMAHook',
        momentum=5e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
    dict(type='EMALoadHook'),
    # Validation scores the rounded, folded network.
    dict(type='DeploySwitchHook', when=('val', 'after_train')),
    dict(type='TrainThroughputHook', interval=100),
]
