"""Regularization that grows with the network and with the epochs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.models.losses import LabelSmoothLoss
from torch import nn

from ..errors import SpecError
from ..models import ConfigurableMobileOne, switch_to_deploy
from ..option_checks import number
from .deploy_file import unwrap
from .live_pipeline import LivePipeline
from .regularization_plan import Phase, Plan, read_phases, strength_for
from .schedule_preview import leaves_preview

#: mmpretrain's steps for S2 to S4 (epochs 37 and 112 of 300), as shares.
_PHASES = (
    dict(begin=0, resolution=160, magnitude=0.3),
    dict(begin=0.125, resolution=192, magnitude=0.7),
    dict(begin=0.375, resolution=224, magnitude=1.0),
)


@HOOKS.register_module()
class DynamicRegularizationHook(Hook):
    """Change image size, augmentation and more at the epochs of a plan.

    The transforms of the training data set are changed in place, and
    persistent workers are started anew where something changed, so that the
    images really differ. What is in force follows from the epoch alone: a
    resumed run is in the right phase. It is logged at each change and, as
    scalars ``train/resolution``, ``train/magnitude``, ``train/weight_decay``
    and so on, with every training log line and in every visualizer backend.

    Weight decay itself is a matter of ``param_scheduler``:
    ``dict(type='CosineAnnealingParamScheduler', param_name='weight_decay',
    eta_min_ratio=0.1, ...)`` leaves norms and biases at 0, where the
    ``eta_min`` of mmpretrain's recipes raises them.

    Args:
        strength: multiplies the magnitudes of all phases. 'auto': by the
            parameters of the folded backbone, 0 for S0 and S1, 1 for S4;
            see ``regularization_plan.strength_for``.
        phases: dicts with ``begin`` (epoch, or share of the run as a float)
            and any of ``resolution`` (pixels), ``magnitude`` (share of the
            RandAugment of the pipeline), ``label_smoothing`` and
            ``dropout``; the first begins at 0.

    Raises:
        SpecError: a phase that cannot be read, a pipeline, loss or model
            without what a phase sets, or a training that does not count in
            epochs.
    """

    # Before hooks that look at the data of an epoch.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 strength: Union[str, float] = 'auto',
                 phases: Sequence[Mapping[str, Any]] = _PHASES):
        if not isinstance(strength, str) or strength != 'auto':
            number('DynamicRegularizationHook: strength', strength,
                   also="'auto', ")
        self.strength = strength
        self.phases = read_phases(phases)
        self._scalars: dict[str, float] = {}

    def before_run(self, runner) -> None:
        """Leave a run that has no images."""
        leaves_preview(self, runner)

    def before_train(self, runner) -> None:
        """Find what has to be changed; refuses where it is not there."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise SpecError('DynamicRegularizationHook: the training must '
                            'count in epochs (EpochBasedTrainLoop)')
        self._plan = Plan(self.phases, runner.max_epochs)
        self._pipeline = LivePipeline(runner.train_dataloader.dataset)
        model = unwrap(runner.model)
        self._losses = [m for m in model.modules()
                        if isinstance(m, LabelSmoothLoss)]
        self._dropouts = [m for m in model.modules()
                          if isinstance(m, nn.Dropout)]
        self._strength = self._resolve(model)
        self._plan.uses('resolution')  # refuses what only some phases set
        for knob, parts, what in (
                ('label_smoothing', self._losses, 'LabelSmoothLoss'),
                ('dropout', self._dropouts, 'Dropout')):
            if self._plan.uses(knob) and not parts:
                raise SpecError(f'DynamicRegularizationHook: phases set '
                                f'{knob}, but the model has no {what}')

    def before_train_epoch(self, runner) -> None:
        """Put the phase of this epoch in force."""
        phase = self._plan.at(runner.epoch)
        scalars = self._apply(phase)
        if scalars == self._scalars:
            return
        self._scalars = scalars
        # Persistent workers hold the transforms as they were.
        runner.train_dataloader._iterator = None
        shown = ', '.join(f'{k} {v:g}' for k, v in scalars.items())
        runner.logger.info(f'DynamicRegularizationHook: from epoch '
                           f'{runner.epoch + 1} on: {shown} (strength '
                           f'{self._strength:.2f})')

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Leave what is in force for the log and the visualizers.

        Raises:
            SpecError: the images do not have the size of the phase.
        """
        if batch_idx == 0 and 'resolution' in self._scalars:
            _check_size(data_batch, int(self._scalars['resolution']))
        decay = max((group.get('weight_decay', 0.0) for group in
                     runner.optim_wrapper.param_groups), default=0.0)
        for name, value in (*self._scalars.items(), ('weight_decay', decay)):
            runner.message_hub.update_scalar(f'train/{name}', value)

    def after_train(self, runner) -> None:
        """Leave the data set as it was built."""
        self._pipeline.restore()
        self._scalars = {}

    def _resolve(self, model: nn.Module) -> float:
        if not self._plan.uses('magnitude'):
            return 1.0
        if self.strength != 'auto':
            return float(self.strength)
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, ConfigurableMobileOne):
            raise SpecError(
                "DynamicRegularizationHook: strength='auto' follows from the "
                'size of a ConfigurableMobileOne, but the backbone is '
                f'{type(backbone).__name__}; give a number')
        folded = switch_to_deploy(backbone, inplace=False)
        return strength_for(sum(p.numel() for p in folded.parameters()))

    def _apply(self, phase: Phase) -> dict[str, float]:
        found: dict[str, float] = {}
        if phase.resolution is not None:
            self._pipeline.set_resolution(phase.resolution)
            found['resolution'] = phase.resolution
        if phase.magnitude is not None:
            found['magnitude'] = self._pipeline.set_magnitude(
                phase.magnitude * self._strength)
        if phase.label_smoothing is not None:
            found['label_smoothing'] = phase.label_smoothing
            for loss in self._losses:
                _smooth(loss, phase.label_smoothing)
        if phase.dropout is not None:
            found['dropout'] = phase.dropout
            for module in self._dropouts:
                module.p = phase.dropout
        return found


def _check_size(data_batch: Any, pixels: int) -> None:
    """Whatever the pipeline is made of, its images tell the truth."""
    shape = tuple(data_batch['inputs'][0].shape[-2:])
    if max(shape) != pixels:
        raise SpecError(
            f'DynamicRegularizationHook: images of {shape[0]} x {shape[1]} '
            f'come out of the training pipeline, not {pixels}: a transform '
            'that it does not know sets their size')


def _smooth(loss: LabelSmoothLoss, value: float) -> None:
    loss.label_smooth_val = value
    # The loss computes with this, which its constructor derives.
    loss._eps = value / (1 + value) if loss.mode == 'classy_vision' else value
