_base_ = ['./_base_/coreml.py']

backend_config = dict(common_config=dict(compute_precision='FLOAT32'))
