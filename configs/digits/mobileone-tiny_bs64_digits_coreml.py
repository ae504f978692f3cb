# As mobileone-tiny_bs64_digits.py; training ends with the best checkpoint as
# a .mlpackage that is scored on the whole test split.
_base_ = './mobileone-tiny_bs64_digits.py'

custom_hooks = [
    *_base_.custom_hooks,
    dict(type='CoreMLExportHook', verify_data='test'),
]
