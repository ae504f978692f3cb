_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(
    imports=[
        'mmpretrain_mobileone_ext',
        # Lets torchrun start ranks on a machine without a GPU.
        'mmpretrain_mobileone_ext.hooks.cpu_ranks',
    ],
    allow_failed_imports=False)

# Without the scope that mmengine notes in what it inherits from another
# package: MMPretrain's tools hand these options on to the class.
visualizer = dict(
    _delete_=True,
    type='UniversalVisualizer',
    vis_backends=[dict(type='LocalVisBackend')])

default_hooks = dict(checkpoint=dict(save_best='auto', max_keep_ckpts=2))

# MobileOne is small enough to be trained on CPUs, where nccl is missing and
# mmengine's default wrapper names a CUDA device.
_cuda = __import__('torch').cuda.is_available()
env_cfg = dict(dist_cfg=dict(backend='nccl' if _cuda else 'gloo'))
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False)
if not _cuda:
    model_wrapper_cfg.update(device_ids=None)
randomness = dict(seed=0)
