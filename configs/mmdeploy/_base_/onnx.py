# The ONNX graph that ONNX Runtime and, by pnnx, ncnn start from.
ir_config = dict(
    type='onnx',
    save_file='end2end.onnx',
    export_params=True,
    keep_initializers_as_inputs=False,
    opset_version=13,
    input_names=['input'],
    output_names=['output'],
    input_shape=[224, 224])  # (W, H)
codebase_config = dict(type='mmpretrain', task='Classification')
