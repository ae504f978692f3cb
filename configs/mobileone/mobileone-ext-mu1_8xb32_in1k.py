# Matched to the μ1 of paper table 13, 0.98 M parameters and 139 M FLOPs, to
# 1 %. The paper does not give its widths; these are ours: as deep as S0, the
# widths that come closest and grow from stage to stage.
_base_ = './mobileone-ext-s0_8xb32_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            num_blocks=(2, 8, 10, 1),
            width_factor=(0.5, 0.6875, 0.71875, 0.9375),
            num_conv_branches=4)),
    head=dict(in_channels=480))
