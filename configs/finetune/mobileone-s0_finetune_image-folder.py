# MobileOne S0 from ImageNet weights on your own images:
#   python tools/finetune.py DATA
# sets the folder, the classes and, if asked, weights, frozen stages, epochs.
_base_ = [
    '../_base_/models/mobileone_in1k.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(frozen_stages=1))
load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s0_8xb32_in1k_20221110-0bc94952.pth')

# A tenth of the rate that trains from nothing.
optim_wrapper = dict(optimizer=dict(lr=0.01))
train_cfg = dict(max_epochs=20, val_interval=5)
_base_.param_scheduler[1].end = 20
train_dataloader = dict(num_workers=2, persistent_workers=True)
val_dataloader = dict(num_workers=1)
test_dataloader = dict(num_workers=1)
