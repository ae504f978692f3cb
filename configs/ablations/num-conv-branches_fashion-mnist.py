# How many conv branches? Paper table 5 asks it on ImageNet.
_base_ = './branches_fashion-mnist.py'

ablation = dict(
    _delete_=True,
    variants={
        f'k = {k}': {
            'model.backbone.num_conv_branches': k
        }
        for k in (1, 2, 3, 4, 5)
    },
    seeds=(0, 1, 2))
