# mmdeploy's own ncnn converter is not in its wheel: with stock mmdeploy this
# config needs `mmdeploy_onnx2ncnn`, built from source, on the PATH.
# tools/deploy_mmdeploy.py converts mmdeploy's ONNX with pnnx from PyPI.
_base_ = ['./_base_/onnx.py']

backend_config = dict(type='ncnn', precision='FP32')
