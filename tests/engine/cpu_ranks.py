"""Imported by a config: lets mmengine start ranks where there is no GPU.

Its launcher selects a CUDA device for each rank, whatever the backend.
"""
import torch

if not torch.cuda.is_available():
    torch.cuda.set_device = lambda device: None
