"""Evaluate and save the folded form during a run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Optional

from mmengine.dist import broadcast, get_world_size, master_only
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..checkpoints.deploy_file import deploy_path, unwrap, write_deploy_file
from ..errors import SpecError
from ..models import MobileOneBlock, switch_to_deploy
from ..models.deploy import compare_forms, form_of
from ..utils.checks import number, selection
from ..utils.parity import fold_tolerance
from .run import check_order, kept_checkpoints, leaves_preview, place_beside, spare_others

_STAGES = ('val', 'test', 'after_train')
_SAMPLES = 32  # images compared per run and epoch


@HOOKS.register_module()
class DeploySwitchHook(Hook):
    """Score and keep what ships: the folded network.

    On ``'val'`` and ``'test'`` the epoch runs on a folded copy, made after ``EMAHook`` has swapped
    the averaged weights in, and compared with the branches on the first batch; a difference stops
    the run. Training, EMA and checkpoints never see the copy. ``'after_train'`` writes
    ``*_deploy.pth`` beside the last and the best checkpoint, and into the work dir where the run
    was resumed from one elsewhere. In a distributed run all ranks score the copy of rank 0, whose
    weights and running statistics are the ones that are saved.

    A model that is folded already, or a loaded Core ML program, is left alone; of a program that
    ``sample`` spares some images, the log says how many it was scored on.

    Args:
        when: any of 'val', 'test', 'after_train'.
        tolerance: relative error allowed between the forms; a named one by dtype when None (see
            ``parity.TOLERANCES``).

    Raises:
        SpecError: a wrong argument, a model without foldable blocks, or a priority that puts the
            hook on the wrong side of another.
        ParityError: the folded form differs from the branches.
    """

    # After EMAHook (NORMAL or ABOVE_NORMAL) swaps weights in, before CheckpointHook (VERY_LOW)
    # looks at the model.
    priority = 'BELOW_NORMAL'

    def __init__(self, when: Sequence[str] = _STAGES, tolerance: Optional[float] = None):
        self.when = selection('DeploySwitchHook: when', when, _STAGES)
        self.tolerance = (
            tolerance if tolerance is None else number('DeploySwitchHook: tolerance', tolerance)
        )
        self._original: Optional[nn.Module] = None
        self._branches: Optional[nn.Module] = None
        self._sample: Optional[Tensor] = None

    def before_run(self, runner) -> None:
        """Refuse a model or an order in which the hook cannot work."""
        if leaves_preview(self, runner):
            return
        check_order(runner.hooks, self, after=[EMAHook], before=[CheckpointHook])
        model = unwrap(runner.model)
        ours = any(isinstance(m, MobileOneBlock) for m in model.modules())
        if not ours and form_of(model) != 'Core ML':
            raise SpecError(
                'DeploySwitchHook: the model has no re-parameterizable block '
                f'({type(model).__name__}); use ConfigurableMobileOne as the '
                'backbone or remove the hook'
            )

    def before_train_epoch(self, runner) -> None:
        """Leave the files of a run that this one was resumed from alone."""
        spare_others(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Keep one batch for the comparison after training."""
        if self._sample is None:
            self._sample = _inputs(unwrap(runner.model), data_batch)

    def before_val_epoch(self, runner) -> None:
        """Let the epoch run on a folded copy."""
        self._enter(runner, 'val')

    def before_test_epoch(self, runner) -> None:
        """Let the epoch run on a folded copy."""
        self._enter(runner, 'test')

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Compare both forms on the first batch."""
        self._verify(runner, batch_idx, data_batch)

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Compare both forms on the first batch."""
        self._verify(runner, batch_idx, data_batch)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Put the branches back after the last batch.

        mmpretrain's ``EMAHook`` may evaluate ``runner.model`` once more, before this hook's
        ``after_val_epoch``.
        """
        if self.end_of_epoch(runner.val_dataloader, batch_idx):
            self._leave(runner)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Put the branches back after the last batch."""
        if self.end_of_epoch(runner.test_dataloader, batch_idx):
            self._leave(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Put the branches back if the epoch was cut short."""
        self._leave(runner)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Put the branches back if the epoch was cut short; say of how many images figures are."""
        self._leave(runner)
        sampled = getattr(getattr(unwrap(runner.model), 'artifact', None), 'sampled', '')
        if sampled:
            runner.logger.info(f'these figures are of {sampled} (model.sample)')

    def after_train(self, runner) -> None:
        """Write ``*_deploy.pth`` for the last and the best checkpoint."""
        if 'after_train' in self.when and form_of(runner.model) == 'branches':
            self._write(runner)

    def _enter(self, runner, stage: str) -> None:
        if stage not in self.when or form_of(runner.model) != 'branches':
            return
        branches = _of_rank_0(unwrap(runner.model))
        folded = switch_to_deploy(branches, inplace=False).eval()
        self._original, self._branches = runner.model, branches
        runner.model = folded

    def _leave(self, runner) -> None:
        if self._original is not None:
            runner.model = self._original
            self._original = self._branches = None

    def _verify(self, runner, batch_idx: int, data_batch: Any) -> None:
        if self._branches is None or batch_idx:
            return
        inputs = _inputs(self._branches, data_batch)
        parity = compare_forms(_tensor_model(self._branches), _tensor_model(runner.model), inputs)
        tolerance = fold_tolerance(inputs.dtype, self.tolerance)
        if parity.failure(tolerance) is not None:
            self._leave(runner)
        parity.require(tolerance, 'DeploySwitchHook: folded form against branches')
        runner.logger.info(
            'DeploySwitchHook: evaluating the folded form; relative '
            f'difference to the branches {parity.relative:.2e}'
        )

    @master_only
    def _write(self, runner) -> None:
        checkpoints = kept_checkpoints(runner)
        if not checkpoints:
            runner.logger.warning(
                'DeploySwitchHook: the run saved no checkpoint, so there is none to fold'
            )
        for checkpoint in checkpoints:
            path = write_deploy_file(
                runner.model,
                checkpoint,
                place_beside(runner, checkpoint) / deploy_path(checkpoint).name,
                inputs=self._sample,
                tolerance=self.tolerance,
                config_text=runner.cfg.pretty_text,
                force=True,
            )
            runner.logger.info(f'DeploySwitchHook: wrote {path}')


def _of_rank_0(model: nn.Module) -> nn.Module:
    """The model, or on several ranks a copy with the weights of rank 0.

    Running statistics differ between ranks unless they are synchronized.
    """
    if get_world_size() == 1:
        return model
    model = copy.deepcopy(model)
    for tensor in model.state_dict().values():
        broadcast(tensor)
    return model


def _tensor_model(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, BaseTTAModel) else model


def _inputs(model: Any, data_batch: Any) -> Tensor:
    """Normalized images of a batch; of the first view under TTA."""
    if isinstance(model, BaseTTAModel):
        model = model.module
        data_batch = {k: v[0] for k, v in data_batch.items()}
    # The preprocessor writes into data samples.
    batch = copy.deepcopy(data_batch)
    return model.data_preprocessor(batch, False)['inputs'][:_SAMPLES]
