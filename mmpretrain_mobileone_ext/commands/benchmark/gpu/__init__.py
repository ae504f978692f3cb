"""The check behind ``tools/check_gpu.py``: whether a GPU's kernels are right, and how fast they are."""
