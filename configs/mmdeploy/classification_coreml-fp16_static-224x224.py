_base_ = ['./_base_/coreml.py']
