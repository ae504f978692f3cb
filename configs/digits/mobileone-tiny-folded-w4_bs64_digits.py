# The folded network of mobileone-tiny_bs64_digits.py, trained on with weights of
# 4 bits by Apple's coreai-opt (extra [coreai]); training ends with a .mlpackage
# that holds their integers. Where it starts from has to be given:
#   --cfg-options load_from=.../best_accuracy_top1_epoch_25_deploy.pth
_base_ = './mobileone-tiny_bs64_digits.py'

model = dict(backbone=dict(deploy=True))
optim_wrapper = dict(optimizer=dict(lr=0.005))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, end=4)
]
train_cfg = dict(max_epochs=4, val_interval=1)
custom_hooks = [
    dict(type='FoldedQuantizationHook', preset='w4'),
    dict(type='CoreMLExportHook', deployment_target='iOS18', verify_data='test'),
]
