# Which activation? All of these convert to Core ML.
_base_ = './branches_fashion-mnist.py'

ablation = dict(
    _delete_=True,
    variants={
        name: {
            'model.backbone.act_cfg': dict(type=name)
        }
        for name in ('ReLU', 'ReLU6', 'LeakyReLU', 'HSwish', 'SiLU', 'GELU')
    },
    seeds=(0, 1, 2))
