# Where does squeeze-and-excitation pay? It costs time on a phone (table 2).
_base_ = './branches_fashion-mnist.py'

ablation = dict(
    _delete_=True,
    variants={
        'no SE': {
            'model.backbone.se_cfg': None
        },
        **{
            f'{place} blocks, {units}': {
                'model.backbone.se_cfg':
                dict(ratio=16, placement=placement, units=units)
            }
            for place, placement, units in (
                ('last', 1, 'both'), ('all', 'all', 'both'),
                ('all', 'all', 'depthwise'), ('all', 'all', 'pointwise'))
        },
    },
    seeds=(0, 1, 2))
