# Seconds: float for two thirds of the epochs, then weights of 4 bits.
_base_ = '../digits/mobileone-tiny_bs64_digits.py'

custom_hooks = [
    dict(type='QuantizationHook', weights=4, start=2 / 3),
    *_base_.custom_hooks,
]
