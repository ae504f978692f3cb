# Which kinds of branches? One conv branch in each, then four of all kinds.
_base_ = './branches_fashion-mnist.py'

ablation = dict(
    _delete_=True,
    variants={
        ' + '.join(kinds): {
            'model.backbone.branches': kinds,
            'model.backbone.num_conv_branches': 1
        }
        for kinds in (('conv', ), ('conv', 'scale'), ('conv', 'skip'),
                      ('conv', 'scale', 'skip'))
    },
    seeds=(0, 1, 2))
