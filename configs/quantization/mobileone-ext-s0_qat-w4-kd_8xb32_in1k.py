# Weights of 4 bits, which the float S4 teaches (arXiv 1503.02531); twice the
# epochs of 8 bits, since four lose more.
_base_ = './mobileone-ext-s0_qat-w8a8_8xb32_in1k.py'

train_cfg = dict(max_epochs=30)
_base_.param_scheduler[0].T_max = 30
_base_.param_scheduler[0].end = 30

custom_hooks = [
    dict(type='QuantizationHook', weights=4, start=0),
    *_base_.custom_hooks[1:],
    dict(
        type='DistillationHook',
        teacher='mmpretrain_mobileone_ext::mobileone/'
        'mobileone-ext-s4_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/'
        'mobileone/mobileone-s4_8xb32_in1k_20221110-28d888cb.pth',
        temperature=4.0,
        weight=0.9),
]
