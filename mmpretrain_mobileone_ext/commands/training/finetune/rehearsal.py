"""What would stop a run, found out before it: each image, each step."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import cv2
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ....coreml.compress.given import Trained
from ....coreml.program import quiet
from ....errors import MobileOneExtError
from ....export.job import load_job
from ....export.options import ExportOptions
from ....utils.config import in_scope
from ....utils.machine import untouched_rng
from ....utils.text import Steps, one_line
from .settings import loading_steps

#: How a file that is no image begins, to what it is.
_BEGINNINGS = (
    (b'\0\5\x16\7', 'data of macOS about another file'),
    (b'<', 'a web page or other text'),
    (b'{', 'text'),
    (b'version https://git-lfs', 'a pointer of Git LFS; fetch the file'),
    (b'%PDF', 'a PDF document'),
)
_HEIC = (b'ftypheic', b'ftypheix', b'ftypmif1', b'ftyphevc')
_JPEG_BEGIN, _JPEG_END = b'\xff\xd8', b'\xff\xd9'

_IMAGES = 2
#: Of a loader that has worker processes only.
_OF_WORKERS = (
    'persistent_workers',
    'prefetch_factor',
    'timeout',
    'multiprocessing_context',
    'worker_init_fn',
    'pin_memory',
)

Load = Callable[[dict], Optional[dict]]


class _Read(NamedTuple):
    """What came of a file: a reason, or the number of channels."""

    path: str
    reason: Optional[str]
    channels: int = 0


def check_images(
    recipe: Config, root: Path, paths: Sequence[str], console: Console
) -> Mapping[str, str]:
    """Decode images with the recipe's own loaders.

    It takes as long as one epoch without augmentation would on all cores, and shows a bar on a
    terminal.

    Args:
        recipe: its pipelines begin with a loader.
        root: what ``paths`` are relative to.
        paths: of images.

    Returns:
        Why some cannot be read, by path.

    Raises:
        MobileOneExtError: the loaders yield images of different numbers of channels, which no batch
            can hold.
    """
    with in_scope(recipe):
        loads = [TRANSFORMS.build(dict(step)) for step in loading_steps(recipe, paths)]
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    found = []
    with (
        _quiet_opencv(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task('open images', total=len(paths))
        for read in pool.map(lambda p: _read(root, p, loads), paths):
            found.append(read)
            bar.advance(task)
    _check_channels(found)
    return {r.path: r.reason for r in found if r.reason is not None}


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Warnings name no file; ours do."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _read(root: Path, path: str, loads: Sequence[Load]) -> _Read:
    channels = 0
    try:
        for load in loads:
            image: Any = (load(dict(img_path=str(root / path))) or {})['img']
            channels = image.shape[2] if image.ndim == 3 else 1
        _check_end(root / path)
    except MobileOneExtError as error:
        return _Read(path, str(error))
    # Decoders of any format run here.
    except Exception as error:
        return _Read(path, _reason(root / path, error))
    return _Read(path, None, channels)


def _check_end(path: Path) -> None:
    """Some releases of OpenCV fill up a JPEG that is cut off, with grey."""
    content = path.read_bytes()
    if content.startswith(_JPEG_BEGIN) and not content.rstrip(b'\0').endswith(_JPEG_END):
        # Cameras append data of their own; Pillow knows the true end.
        with Image.open(io.BytesIO(content)) as image:
            image.load()


def _reason(path: Path, error: Exception) -> str:
    """What a file is that no decoder takes."""
    if isinstance(error, OSError) and error.errno is not None:
        return f'cannot be opened ({error.strerror})'
    with open(path, 'rb') as file:
        start = file.read(64)
    if not start:
        return 'empty'
    if start[4:12] in _HEIC:
        return 'HEIC under another name; name it .heic'
    for beginning, kind in _BEGINNINGS:
        if start.lstrip(b'\xef\xbb\xbf \r\n\t').startswith(beginning):
            return f'no image but {kind}'
    said = str(error)
    if 'failed to load image' in said or 'truncated' in said:
        return 'damaged, cut off, or of a format that OpenCV does not read'
    return f'cannot be decoded ({one_line(error, 80)})'


def _check_channels(found: Sequence[_Read]) -> None:
    examples = {r.channels: r.path for r in found if r.reason is None}
    if len(examples) > 1:
        listed = ', '.join(f'{count} in {path}' for count, path in sorted(examples.items()))
        raise MobileOneExtError(
            "the recipe's LoadImageFromFile yields images of different "
            f"numbers of channels ({listed}); give it color_type='color'"
        )


def rehearse(cfg: Config, package: Path, compress: str = 'none') -> None:
    """Prepare the export of an untrained network, train and score it.

    It takes seconds. Nothing is converted or written.

    Args:
        cfg: of the run, its lists of images written.
        package: what the export will make.
        compress: how its weights will be stored.

    Raises:
        MobileOneExtError: a step would fail, and why.
    """
    with untouched_rng(), in_scope(cfg):
        with _step(cfg, 'the model cannot be built'):
            model = _built(cfg)
        # First, since it says best what is wrong with a network.
        with _step(cfg, 'the network could not be exported'):
            # It has no integers yet.
            compress = 'none' if compress == Trained.name else compress
            options = ExportOptions(out=package, compress=compress, verify_data='test', force=True)
            _prepare_export(cfg, model, options)
        with _step(cfg, 'a training step fails'):
            _train(cfg, model)
        with _step(cfg, 'the test fails'):
            _score(cfg, model)


@contextmanager
def _step(cfg: Config, failed: str) -> Iterator[None]:
    try:
        yield
    except MobileOneExtError as error:
        raise MobileOneExtError(f'{cfg.filename}: {failed}: {error}') from error
    # Networks, transforms and scores of any package run here.
    except Exception as error:
        raise MobileOneExtError(f'{cfg.filename}: {failed} ({one_line(error)})') from error


def _built(cfg: Config) -> nn.Module:
    """As mmengine's Runner does, without weights."""
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build(model)


def _batch(cfg: Config, split: str) -> Any:
    given = copy.deepcopy(cfg[f'{split}_dataloader'])
    loader = {k: v for k, v in given.items() if k not in _OF_WORKERS}
    loader.update(num_workers=0, batch_size=_IMAGES, drop_last=False)
    loader.pop('batch_sampler', None)
    built = Runner.build_dataloader(loader, seed=0)
    size, count = given.get('batch_size', 1), len(built.dataset)
    if given.get('drop_last') and count < size and split == 'train':
        raise MobileOneExtError(
            f'{count} images make no batch of {size}, and drop_last drops '
            'what is less; choose a smaller train_dataloader.batch_size'
        )
    return next(iter(built))


@torch.no_grad()
def _train(cfg: Config, model: Any) -> None:
    data = model.data_preprocessor(_batch(cfg, 'train'), True)
    model.train().parse_losses(model(**data, mode='loss'))


@torch.no_grad()
def _score(cfg: Config, model: Any) -> None:
    evaluators = {split: Evaluator(cfg[f'{split}_evaluator']) for split in ('val', 'test')}
    for split, evaluator in evaluators.items():
        batch = _batch(cfg, split)
        found = model.eval().val_step(batch)
        evaluator.process(data_samples=found, data_batch=batch)
        evaluator.evaluate(len(found))


def _prepare_export(cfg: Config, model: Any, options: ExportOptions) -> None:
    quiet.coremltools()
    model._config = cfg
    load_job(model.eval(), None, options, None, Steps(show=False))
