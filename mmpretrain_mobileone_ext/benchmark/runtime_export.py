"""The time of a whole export, as somebody at a terminal waits for it."""
from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from ..child_process import run_child
from ..errors import ExportError
from .runtime_network import CLASSES, random_images
from .runtime_results import ExportTime

_SIDE = 256
_STEP = re.compile(r'^([a-z][a-z ]*): ([0-9.]+) s$', re.MULTILINE)
_TOOL = ('import sys; from mmpretrain_mobileone_ext.launch import guarded; '
         'from mmpretrain_mobileone_ext.coreml.export_cli import run; '
         'sys.exit(guarded(run))')


def time_export(model: nn.Module, config: dict[str, Any], size: int,
                images: int, threads: int, folder: Path) -> ExportTime:
    """Run the export tool on a folder of 256 x 256 images.

    Args:
        model: what ``config`` builds, with its weights.
        size: what the images are cropped to, in pixels.
        images: how many there are and are compared on.
        threads: of the tool's torch.
        folder: empty; for images, config, checkpoint and package.

    Raises:
        ExportError: the tool failed; quotes what it said last.
    """
    _write_images(folder / 'data', images)
    _config(config, size, folder / 'data').dump(folder / 'config.py')
    classes = tuple(f'class {i}' for i in range(CLASSES))
    torch.save(
        dict(state_dict=model.state_dict(),
             meta=dict(dataset_meta=dict(classes=classes))),
        folder / 'weights.pth')
    out = folder / 'model.mlpackage'
    command = [sys.executable, '-c', _TOOL, str(folder / 'config.py'),
               str(folder / 'weights.pth'), '--out', str(out),
               '--verify-data', str(images)]
    start = time.perf_counter()
    done = run_child(
        command, env={**os.environ, 'OMP_NUM_THREADS': str(threads)})
    seconds = time.perf_counter() - start
    if done.returncode or not out.exists():
        raise ExportError(f'the timed export failed: {done.stderr[-500:]}')
    steps = {name: float(t) for name, t in _STEP.findall(done.stderr)}
    return ExportTime(images, seconds, steps)


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    pixels = random_images(count, _SIDE).byte().permute(0, 2, 3, 1)
    for i, image in enumerate(pixels.numpy()):
        Image.fromarray(image).save(folder / f'{i:04d}.png')


def _config(model: dict[str, Any], size: int, data: Path) -> Config:
    dataset = dict(
        type='CustomDataset', data_root=str(data), with_label=False,
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='CenterCrop', crop_size=size),
                  dict(type='PackInputs')])
    return Config(dict(
        default_scope='mmpretrain',
        custom_imports=dict(imports=['mmpretrain_mobileone_ext']),
        model=model,
        test_dataloader=dict(batch_size=32, dataset=dataset)))
