_base_ = './mobileone-ext-s0_qat-w8a8_8xb32_in1k.py'

model = dict(backbone=dict(arch='s1'), head=dict(in_channels=1280))
load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s1_8xb32_in1k_20221110-ceeef467.pth')
