_base_ = ['./classification_onnxruntime_static-224x224.py']

ir_config = dict(
    dynamic_axes=dict(input={0: 'batch'}, output={0: 'batch'}))
