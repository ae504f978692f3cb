_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(
    imports=['mmpretrain_mobileone_ext'], allow_failed_imports=False)

default_hooks = dict(checkpoint=dict(save_best='auto', max_keep_ckpts=2))

# MobileOne is small enough to be trained on a CPU, where nccl is missing.
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
