"""Where kernels can run: on a GPU, or by Triton's interpreter.

The interpreter has to be asked for before triton is imported, for the whole process, and other
tests may have imported it: without a GPU ``test_interpreted`` runs the files that need it, in
processes of their own.
"""

import os

import torch

#: One of so many cases runs.
SHARE = int(os.environ.get('KERNEL_CASES_SHARE', '1'))
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
collect_ignore = []
if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore = [
        'test_depthwise_kernels.py',
        'test_pointwise_kernels.py',
        'test_gpu_fold.py',
        'test_triton_units.py',
    ]
elif INTERPRETED:
    collect_ignore = ['test_interpreted.py', 'test_compiled.py']


def pytest_collection_modifyitems(items):
    if INTERPRETED:
        items[:] = items[::SHARE]
