# How wide? The head takes the last stage's channels.
_base_ = './branches_fashion-mnist.py'

ablation = dict(
    _delete_=True,
    variants={
        f'width {width}': {
            'model.backbone.arch.width_factor': width,
            'model.head.in_channels': int(128 * width)
        }
        for width in (0.5, 0.75, 1.0, 1.5)
    },
    seeds=(0, 1, 2))
