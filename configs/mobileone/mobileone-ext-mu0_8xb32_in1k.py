# Matched to the μ0 of paper table 13: 0.57 M parameters and 68 M FLOPs, within
# 1 %. The paper does not give its widths; these are ours: as deep as S0, the
# widths that come closest and grow from stage to stage.
_base_ = './mobileone-ext-s0_8xb32_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            num_blocks=(2, 8, 10, 1),
            width_factor=(0.25, 0.4375, 0.53125, 0.59375),
            num_conv_branches=4)),
    head=dict(in_channels=304))
