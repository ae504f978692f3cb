"""Start several ranks on a machine without a GPU.

mmengine's launcher selects a CUDA device for each rank, whatever the backend
is. Importing this module makes that a no-op where CUDA is missing;
``configs/_base_/default_runtime.py`` does so through ``custom_imports`` and
sets what else it takes.
"""
import torch

if not torch.cuda.is_available():
    torch.cuda.set_device = lambda device: None
