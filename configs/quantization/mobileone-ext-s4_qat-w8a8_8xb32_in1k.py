_base_ = './mobileone-ext-s2_qat-w8a8_8xb32_in1k.py'

model = dict(backbone=dict(arch='s4'))
load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s4_8xb32_in1k_20221110-28d888cb.pth')
