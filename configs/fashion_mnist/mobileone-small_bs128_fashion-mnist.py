# Four conv branches, which train at the price of one; longer than the tiny
# recipe, with smooth labels.
_base_ = './mobileone-tiny_bs64_fashion-mnist.py'

model = dict(
    backbone=dict(
        num_conv_branches=4, branches=('conv', 'scale', 'skip')),
    head=dict(
        loss=dict(
            _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))

train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=15)
_base_.param_scheduler[1].end = 15
