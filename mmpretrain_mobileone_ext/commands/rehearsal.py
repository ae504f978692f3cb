"""The main job once, on a tiny network; a program of its own.

Prints one JSON object a line: ``{"step": title}`` before a step and ``{"done": title, "seconds":
s}`` after it. An error leaves with its traceback on stderr. Run by ``utils/doctor/probe`` as a
file, hence the absolute imports; needs the whole stack.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

# The folder of this file holds modules with names that others may mean: mmdeploy, report.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    del sys.path[0]

_MODULES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmpretrain',
    'coremltools',
    'mmpretrain_mobileone_ext',
)
_CONFIG = 'digits/mobileone-tiny_bs64_digits.py'
_SIDE = 32


def main() -> None:
    """Import everything, then train, fold, export and score."""
    for name in _MODULES:
        with _step(f'import {name}'):
            importlib.import_module(name)
    import torch

    print(json.dumps({'cuda': torch.cuda.is_available()}), flush=True)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, _SIDE, _SIDE), dtype=torch.uint8)
    with _step('train'):
        model = _trained(images)
    with tempfile.TemporaryDirectory() as folder:
        with _step('fold'):
            checkpoint = _folded(model, Path(folder))
        with _step('export'):
            package = _exported(checkpoint, Path(folder))
        with _step('score'):
            _score(model, package, images)


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(json.dumps({'step': title}), flush=True)
    start = time.monotonic()
    yield
    print(json.dumps({'done': title, 'seconds': round(time.monotonic() - start, 2)}), flush=True)


def _config() -> Any:
    from mmengine.config import Config

    from mmpretrain_mobileone_ext.utils.config import MIM

    return Config.fromfile(str(MIM / 'configs' / _CONFIG))


def _trained(images: Any) -> Any:
    """One step on random labels."""
    import torch
    from mmpretrain import get_model
    from mmpretrain.structures import DataSample

    model = get_model(_config()).train()
    samples = [DataSample().set_gt_label(i) for i in range(len(images))]
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
    losses = model(**data, mode='loss')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses['loss'].backward()
    optimizer.step()
    return model.eval()


def _folded(model: Any, folder: Path) -> Path:
    import torch

    from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file

    checkpoint = folder / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    return write_deploy_file(model, checkpoint)


def _exported(checkpoint: Path, folder: Path) -> Path:
    from mmpretrain_mobileone_ext.coreml import export_coreml

    return export_coreml(
        _config(), checkpoint, folder / 'model.mlpackage', image_size=_SIDE, verify_data='none'
    )


def _score(model: Any, package: Path, images: Any) -> None:
    """Both give the same labels, or the installation cannot be trusted."""
    import torch

    from mmpretrain_mobileone_ext.coreml import load_program
    from mmpretrain_mobileone_ext.utils.parity import TOLERANCES, compare

    with torch.no_grad():
        data = model.data_preprocessor(dict(inputs=list(images)), False)
        wanted = model(data['inputs'], mode='tensor').softmax(1)
    program = load_program(package, arithmetic='fp16')
    # The config's images are BGR after loading, the program takes RGB.
    found = program.predict_batch({'image': images.flip(1).float()})
    parity = compare(wanted, found['classLabel_probs'])
    parity.require(TOLERANCES['export-fp16'], 'the Core ML file differs')


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    main()
