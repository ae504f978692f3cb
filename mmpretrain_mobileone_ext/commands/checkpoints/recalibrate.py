"""A checkpoint with recalibrated batch norms, scored before it is kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Union
from uuid import uuid4

from mmengine.config import Config
from mmengine.runner import Runner

from ...checkpoints.deploy_file import provenance
from ...checkpoints.load import load_checkpoint_file, save_checkpoint_atomic
from ...errors import CheckpointError, MobileOneExtError, SpecError
from ...hooks.bn_recalibration import recalibrate, tracking_norms, training_loader
from ...utils.checks import boolean, integer
from ...utils.config import read_config, types_by_name
from ...utils.files import existing_file, free_target
from ...utils.text import Steps

PathLike = Union[str, Path]
_KEPT = ('dataset_meta', 'CLASSES', 'epoch', 'iter')


@dataclass(frozen=True)
class Recalibrated:
    """What was written, and the test metrics of both states.

    Attributes:
        path: the new checkpoint.
        images: training images that were measured.
        metric: the first of the metrics; it decides.
        before, after: all metrics.
    """

    path: Path
    images: int
    metric: str
    before: dict[str, float]
    after: dict[str, float]


def recalibrate_checkpoint(
    config: Union[PathLike, Config],
    checkpoint: PathLike,
    out: PathLike,
    *,
    images: int = 8192,
    augment: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Recalibrated:
    """Recalibrate, score on the test split before and after, and write.

    The file holds the weights (the averaged ones where the run had EMA), the data set's meta, and
    in ``meta['bn_recalibration']`` where they came from and both scores; no optimizer.

    Args:
        config: of the training run, with training and test data.
        checkpoint: in branch form.
        out: file to write.
        images: training images to measure on.
        augment: with the training pipeline, else the test pipeline.
        force: replace an existing ``out``, never the checkpoint itself.
        progress: report steps on stderr.

    Raises:
        CheckpointError: the checkpoint is unsafe, does not fit or is folded, or ``out`` exists.
        SpecError: no training or test data, or less than one image.
        MobileOneExtError: the score became worse; nothing is written.
    """
    for name, value in (('augment', augment), ('force', force), ('progress', progress)):
        boolean(name, value)
    integer('images', images, 1)
    source = existing_file(checkpoint)
    target = free_target(out, source, force)
    if not target.absolute().parent.is_dir():
        raise CheckpointError(f'{target}: the folder {target.parent} does not exist; make it first')
    meta = load_checkpoint_file(source).get('meta', {})
    cfg = types_by_name(config) if isinstance(config, Config) else read_config(config)
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise SpecError(
            'the config has no test_dataloader and test_evaluator; the result could not be verified'
        )
    loader, steps = training_loader(cfg, images, augment), Steps(progress)
    with TemporaryDirectory() as folder:
        runner = _test_runner(cfg, source, folder)
        with steps.step('score as it is'):
            before = dict(runner.test())
        _require_norms(runner.model, source)
        total = min(images, len(loader) * (loader.batch_size or 1))
        with steps.step('measure', total) as advance:
            used = recalibrate(runner.model, loader, images, advance)
        with steps.step('score recalibrated'):
            after = dict(runner.test())
    metric = next(iter(before))
    if not after[metric] >= before[metric]:
        raise MobileOneExtError(
            f'{source}: {metric} is {before[metric]:.4f} as it is and {after[metric]:.4f} '
            f'recalibrated on {used} images; nothing is written'
        )
    record = dict(
        provenance(source, cfg.pretty_text),
        images=used,
        augment=augment,
        before={k: float(v) for k, v in before.items()},
        after={k: float(v) for k, v in after.items()},
    )
    kept = {k: meta[k] for k in _KEPT if k in meta}
    save_checkpoint_atomic(
        dict(meta={**kept, 'bn_recalibration': record}, state_dict=runner.model.state_dict()),
        target,
    )
    return Recalibrated(target, used, metric, before, after)


def _test_runner(cfg: Config, checkpoint: Path, folder: str) -> Runner:
    """Tests the branches of a checkpoint; no hook of the run takes part."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(
        dict(
            work_dir=folder,
            load_from=str(checkpoint),
            resume=False,
            launcher='none',
            log_level='WARNING',
            # mmengine keeps loggers by this name
            experiment_name=f'recalibrate-{uuid4().hex}',
        )
    )
    cfg.custom_hooks = []
    cfg.setdefault('test_cfg', dict())
    # They belong together with the training loop, which is not built.
    for key in (
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'val_dataloader',
        'val_cfg',
        'val_evaluator',
    ):
        cfg.pop(key, None)
    cfg.default_hooks = dict(checkpoint=None)
    cfg.visualizer = dict(type='Visualizer')
    return Runner.from_cfg(cfg)


def _require_norms(model: Any, source: Path) -> None:
    if getattr(model, 'artifact', None) is not None or not tracking_norms(model):
        raise CheckpointError(
            f'{source}: there are no batch norms to recalibrate; give the '
            'checkpoint in branch form, not a folded one'
        )
