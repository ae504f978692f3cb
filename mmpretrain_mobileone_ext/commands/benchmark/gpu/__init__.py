"""The check behind ``tools/check_gpu.py``: are a GPU's kernels right, and how fast are they?"""
