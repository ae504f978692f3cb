_base_ = './mobileone-ext-s2_qat-w8a8_8xb32_in1k.py'

model = dict(backbone=dict(arch='s3'))
load_from = ('https://download.openmmlab.com/mmclassification/v0/mobileone/'
             'mobileone-s3_8xb32_in1k_20221110-c95eb3bf.pth')
