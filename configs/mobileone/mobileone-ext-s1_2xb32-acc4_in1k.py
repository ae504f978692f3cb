# 256 images a step on two GPUs: gradients of four batches are added up.
_base_ = './mobileone-ext-s1_8xb32_in1k.py'

optim_wrapper = dict(accumulative_counts=4)
# Averaged after every batch, not every step.
_base_.custom_hooks[0].momentum = 1.25e-4
