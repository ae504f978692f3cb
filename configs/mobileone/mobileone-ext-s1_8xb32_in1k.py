_base_ = './mobileone-ext-s0_8xb32_in1k.py'

model = dict(backbone=dict(arch='s1'), head=dict(in_channels=1280))
