"""The steps of a run on two images, before hours of training."""
from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn

from ..coreml import quiet
from ..coreml.export_job import load_job
from ..coreml.export_options import ExportOptions
from ..coreml.export_source import in_scope, one_line, untouched_rng
from ..errors import MobileOneExtError
from ..models import MobileOneBlock
from ..progress import Steps

_IMAGES = 2
#: Of a loader that has worker processes only.
_OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout',
               'multiprocessing_context', 'worker_init_fn', 'pin_memory')


def rehearse(cfg: Config, package: Path) -> None:
    """Prepare the export of an untrained network, train and score it.

    It takes seconds. Nothing is converted or written.

    Args:
        cfg: of the run, its lists of images written.
        package: what the export will make.

    Raises:
        MobileOneExtError: a step would fail, and why.
    """
    with untouched_rng(), in_scope(cfg):
        with _step(cfg, 'the model cannot be built'):
            model = _built(cfg)
        _check_foldable(cfg, model)
        # First, since it says best what is wrong with a network.
        with _step(cfg, 'the network could not be exported'):
            _prepare_export(cfg, model, package)
        with _step(cfg, 'a training step fails'):
            _train(cfg, model)
        with _step(cfg, 'the test fails'):
            _score(cfg, model)


@contextmanager
def _step(cfg: Config, failed: str) -> Iterator[None]:
    try:
        yield
    except MobileOneExtError as error:
        raise MobileOneExtError(f'{cfg.filename}: {failed}: {error}') \
            from error
    # Networks, transforms and scores of any package run here.
    except Exception as error:
        raise MobileOneExtError(
            f'{cfg.filename}: {failed} ({one_line(error)})') from error


def _built(cfg: Config) -> nn.Module:
    """As mmengine's Runner does, without weights."""
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor',
                         copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build(model)


def _check_foldable(cfg: Config, model: nn.Module) -> None:
    if not any(isinstance(m, MobileOneBlock) for m in model.modules()):
        kind = type(getattr(model, 'backbone', model)).__name__
        raise MobileOneExtError(
            f'{cfg.filename}: {kind} has no block that can be folded; '
            'choose a recipe with ConfigurableMobileOne as the backbone')


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
            'what is less; choose a smaller train_dataloader.batch_size')
    return next(iter(built))


@torch.no_grad()
def _train(cfg: Config, model: Any) -> None:
    data = model.data_preprocessor(_batch(cfg, 'train'), True)
    model.train().parse_losses(model(**data, mode='loss'))


@torch.no_grad()
def _score(cfg: Config, model: Any) -> None:
    evaluators = {split: Evaluator(cfg[f'{split}_evaluator'])
                  for split in ('val', 'test')}
    for split, evaluator in evaluators.items():
        batch = _batch(cfg, split)
        found = model.eval().val_step(batch)
        evaluator.process(data_samples=found, data_batch=batch)
        evaluator.evaluate(len(found))


def _prepare_export(cfg: Config, model: Any, package: Path) -> None:
    quiet.coremltools()
    model._config = cfg
    options = ExportOptions(out=package, verify_data='test', force=True)
    load_job(model.eval(), None, options, None, Steps(show=False))
