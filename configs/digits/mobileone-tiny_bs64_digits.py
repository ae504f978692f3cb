_base_ = [
    '../_base_/models/mobileone_tiny.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/sgd_coslr_ema.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(logger=dict(interval=10))
