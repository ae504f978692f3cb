_base_ = ['./_base_/onnx.py']

backend_config = dict(type='onnxruntime')
