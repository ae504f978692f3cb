# Weights of 4 bits for the last third of the epochs.
_base_ = './mobileone-k4_bs128_fashion-mnist.py'

custom_hooks = [
    dict(type='QuantizationHook', weights=4, start=2 / 3),
    *_base_.custom_hooks,
]
