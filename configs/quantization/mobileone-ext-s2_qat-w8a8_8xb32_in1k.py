# The augmentation of the larger variants at the strength with which their
# float training ends.
_base_ = [
    '../_base_/models/mobileone_in1k.py',
    '../_base_/datasets/imagenet_bs32_randaug.py',
    '../_base_/schedules/imagenet_bs256_qat_15e.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(arch='s2'), head=dict(in_channels=2048))
load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s2_8xb32_in1k_20221110-9c7ecb97.pth')
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
