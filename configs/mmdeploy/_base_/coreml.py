# Core ML through mmdeploy: one image of one size, as an ML program. mmdeploy
# bakes in softmax, but neither mean, std, channel order nor class labels.
ir_config = dict(
    type='torchscript',
    save_file='end2end.pt',
    input_names=['input'],
    output_names=['output'],
    input_shape=None)
codebase_config = dict(type='mmpretrain', task='Classification')
backend_config = dict(
    type='coreml',
    convert_to='mlprogram',
    common_config=dict(
        compute_precision='FLOAT16',
        minimum_deployment_target='iOS16',
        # Compiling the file needs macOS; nothing here needs it compiled.
        skip_model_load=True),
    model_inputs=[
        dict(
            input_shapes=dict(
                input=dict(
                    min_shape=[1, 3, 224, 224],
                    max_shape=[1, 3, 224, 224],
                    default_shape=[1, 3, 224, 224])))
    ])
