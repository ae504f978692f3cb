# S0 from OpenMMLab's weights to 8-bit weights and activations; export with
#   mobileone-ext export CONFIG CHECKPOINT --compress trained
_base_ = [
    '../_base_/models/mobileone_in1k.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    '../_base_/schedules/imagenet_bs256_qat_15e.py',
    '../_base_/default_runtime.py',
]

load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s0_8xb32_in1k_20221110-0bc94952.pth')
train_dataloader = dict(persistent_workers=True)
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
