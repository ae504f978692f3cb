# Four conv branches; large batches, which take two thirds of the time an image;
# more epochs than the tiny recipe, and smooth labels.
_base_ = './mobileone-tiny_bs64_fashion-mnist.py'

model = dict(
    backbone=dict(
        num_conv_branches=4, branches=('conv', 'scale', 'skip')),
    head=dict(
        loss=dict(
            _delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)))

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=0.2))
train_cfg = dict(max_epochs=14)
_base_.param_scheduler[1].end = 14
