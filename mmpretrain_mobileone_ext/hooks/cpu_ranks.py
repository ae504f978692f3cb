"""Start several ranks on a machine without a GPU.

mmengine's launcher selects a CUDA device for each rank, whatever the backend is. Importing this
module makes that a no-op where CUDA is missing; ``configs/_base_/default_runtime.py`` does so
through ``custom_imports`` and sets what else it takes. The process group is closed before the
interpreter goes: gloo's threads sometimes abort it otherwise, after a good run.
"""

import atexit

import torch
import torch.distributed as dist


@atexit.register
def _close_process_group() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


if not torch.cuda.is_available():
    torch.cuda.set_device = lambda device: None
