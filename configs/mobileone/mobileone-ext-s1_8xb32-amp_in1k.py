# In mixed precision, on GPUs; statistics stay in fp32.
_base_ = './mobileone-ext-s1_8xb32_in1k.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
