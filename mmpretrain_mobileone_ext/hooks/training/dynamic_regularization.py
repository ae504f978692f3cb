"""Regularization that grows with the network and with the epochs.

Small networks need less of it (paper, section 3.3): S0 and S1 train with crops and flips alone,
larger ones with augmentation and image size that grow while they train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Optional, Union

from mmcv.transforms import CenterCrop, Resize
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.datasets.transforms import RandAugment, RandomCrop, RandomResizedCrop, ResizeEdge
from mmpretrain.models.losses import LabelSmoothLoss
from torch import nn

from ...checkpoints.deploy_file import unwrap
from ...errors import SpecError
from ...models import ConfigurableMobileOne, switch_to_deploy
from ...utils.checks import mapping, number, sequence
from ..run import first_of, leaves_preview

#: Transforms that set the size of an image, and the attribute that holds it.
_SIZES = (
    (RandomResizedCrop, 'scale'),
    (RandomCrop, 'crop_size'),
    (CenterCrop, 'crop_size'),
    (Resize, 'scale'),
    (ResizeEdge, 'scale'),
)
#: Parameters of the folded backbones at which strength is 0 and 1.
S1_BACKBONE = 3_483_840
S4_BACKBONE = 12_789_352
#: mmpretrain's steps for S2 to S4 (epochs 37 and 112 of 300), as shares.
_PHASES = (
    dict(begin=0, resolution=160, magnitude=0.3),
    dict(begin=0.125, resolution=192, magnitude=0.7),
    dict(begin=0.375, resolution=224, magnitude=1.0),
)


@HOOKS.register_module()
class DynamicRegularizationHook(Hook):
    """Change image size, augmentation and more at the epochs of a plan.

    The transforms of the training data set are changed in place, and persistent workers are started
    anew where something changed, so that the images really differ. What is in force follows from
    the epoch alone: a resumed run is in the right phase. It is logged at each change and, as
    scalars ``train/resolution``, ``train/magnitude``, ``train/weight_decay`` and so on, with every
    training log line and in every visualizer backend.

    Weight decay itself is a matter of ``param_scheduler``:
    ``dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min_ratio=0.1,
    ...)`` leaves norms and biases at 0, where the ``eta_min`` of mmpretrain's recipes raises them.

    Args:
        strength: multiplies the magnitudes of all phases. 'auto': by the parameters of the folded
            backbone, 0 for S0 and S1, 1 for S4; see :func:`strength_for`.
        phases: dicts with ``begin`` (epoch, or share of the run as a float) and any of
            ``resolution`` (pixels), ``magnitude`` (share of the RandAugment of the pipeline),
            ``label_smoothing`` and ``dropout``; the first begins at 0.

    Raises:
        SpecError: a phase that cannot be read, a pipeline, loss or model without what a phase sets,
            or a training that does not count in epochs.
    """

    # Before hooks that look at the data of an epoch.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self, strength: Union[str, float] = 'auto', phases: Sequence[Mapping[str, Any]] = _PHASES
    ):
        if not isinstance(strength, str) or strength != 'auto':
            number('DynamicRegularizationHook: strength', strength, also="'auto', ")
        self.strength = strength
        self.phases = read_phases(phases)
        self._scalars: dict[str, float] = {}

    def before_run(self, runner) -> None:
        """Leave a run that has no images."""
        leaves_preview(self, runner)

    def before_train(self, runner) -> None:
        """Find what has to be changed; refuses where it is not there."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise SpecError(
                'DynamicRegularizationHook: the training must count in epochs (EpochBasedTrainLoop)'
            )
        self._plan = Plan(self.phases, runner.max_epochs)
        self._pipeline = LivePipeline(runner.train_dataloader.dataset)
        model = unwrap(runner.model)
        self._losses = [m for m in model.modules() if isinstance(m, LabelSmoothLoss)]
        self._dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
        self._strength = self._resolve(model)
        self._plan.uses('resolution')  # refuses what only some phases set
        for knob, parts, what in (
            ('label_smoothing', self._losses, 'LabelSmoothLoss'),
            ('dropout', self._dropouts, 'Dropout'),
        ):
            if self._plan.uses(knob) and not parts:
                raise SpecError(
                    f'DynamicRegularizationHook: phases set {knob}, but the model has no {what}'
                )

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
        runner.logger.info(
            f'DynamicRegularizationHook: from epoch {runner.epoch + 1} on: {shown} (strength '
            f'{self._strength:.2f})'
        )

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Leave what is in force for the log and the visualizers.

        Raises:
            SpecError: the images do not have the size of the phase.
        """
        if batch_idx == 0 and 'resolution' in self._scalars:
            _check_size(data_batch, int(self._scalars['resolution']))
        decay = max(
            (group.get('weight_decay', 0.0) for group in runner.optim_wrapper.param_groups),
            default=0.0,
        )
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
                f'{type(backbone).__name__}; give a number'
            )
        folded = switch_to_deploy(backbone, inplace=False)
        return strength_for(sum(p.numel() for p in folded.parameters()))

    def _apply(self, phase: Phase) -> dict[str, float]:
        found: dict[str, float] = {}
        if phase.resolution is not None:
            self._pipeline.set_resolution(phase.resolution)
            found['resolution'] = phase.resolution
        if phase.magnitude is not None:
            found['magnitude'] = self._pipeline.set_magnitude(phase.magnitude * self._strength)
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
            f'DynamicRegularizationHook: images of {shape[0]} x {shape[1]} come out of the '
            f'training pipeline, not {pixels}: a transform that it does not know sets their size'
        )


def _smooth(loss: LabelSmoothLoss, value: float) -> None:
    loss.label_smooth_val = value
    # The loss computes with this, which its constructor derives.
    loss._eps = value / (1 + value) if loss.mode == 'classy_vision' else value


@dataclass(frozen=True)
class Phase:
    """What holds from ``begin`` to the next phase; None leaves a thing alone.

    Attributes:
        begin: epoch, counted from 0, or share of the run as a float in [0, 1).
        resolution: pixels of the images that are trained on.
        magnitude: share of RandAugment's own magnitude.
        label_smoothing: of ``LabelSmoothLoss``.
        dropout: probability of the model's dropout.
    """

    begin: Union[int, float] = 0
    resolution: Optional[int] = None
    magnitude: Optional[float] = None
    label_smoothing: Optional[float] = None
    dropout: Optional[float] = None

    def __post_init__(self) -> None:
        whole = type(self.begin) is int and self.begin >= 0
        share = type(self.begin) is float and 0 <= self.begin < 1
        if not (whole or share):
            raise SpecError(
                f'phase begin={self.begin!r} must be an epoch (an '
                'integer >= 0) or a share (a float in [0, 1))'
            )
        if self.resolution is not None and (
            type(self.resolution) is not int or self.resolution < 1
        ):
            raise SpecError(f'phase resolution={self.resolution!r} must be a number of pixels')
        for name, top in (('magnitude', math.inf), ('label_smoothing', 1), ('dropout', 1)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < top):
                raise SpecError(f'phase {name}={value!r} must be a number in [0, {top})')

    def first_epoch(self, max_epochs: int) -> int:
        """The epoch in which the phase begins, counted from 0."""
        return first_of(self.begin, max_epochs)


@dataclass(frozen=True)
class Plan:
    """Phases in the order of their epochs; the first begins at 0."""

    phases: tuple[Phase, ...]
    max_epochs: int

    def __post_init__(self) -> None:
        begins = [p.first_epoch(self.max_epochs) for p in self.phases]
        if not begins or begins[0] or begins != sorted(set(begins)):
            raise SpecError(
                f'phases begin in epochs {begins}; the first must '
                'begin in 0 and each later than the one before'
            )
        if begins[-1] >= self.max_epochs:
            raise SpecError(
                f'a phase begins in epoch {begins[-1]}, but the run has {self.max_epochs}'
            )

    def at(self, epoch: int) -> Phase:
        """The phase in force in ``epoch``, counted from 0."""
        return [p for p in self.phases if p.first_epoch(self.max_epochs) <= epoch][-1]

    def uses(self, knob: str) -> bool:
        """Whether any phase sets ``knob``; refuses what only some set.

        Raises:
            SpecError: a phase does and another does not.
        """
        values = [getattr(p, knob) for p in self.phases]
        if all(v is None for v in values):
            return False
        if any(v is None for v in values):
            raise SpecError(f'{knob} is set in some phases only ({values}); set it in all or none')
        return True


def read_phases(given: Sequence[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """Phases of a config.

    Raises:
        SpecError: an unknown key or a value that is not allowed.
    """
    known = [f.name for f in fields(Phase)]
    for phase in sequence('phases', given):
        mapping('phase', phase)
        unknown = sorted(set(phase) - set(known))
        if unknown:
            raise SpecError(f'phase has unknown keys {unknown}; allowed are {known}')
    return tuple(Phase(**phase) for phase in given)


def strength_for(parameters: int) -> float:
    """Strength for a backbone with so many parameters after the fold.

    0 up to S1 and 1 from S4 on, by the logarithm between them; that gives S2 0.39 and S3 0.64. That
    it grows with size is the paper's; the numbers between 0 and 1 are this package's.
    """
    place = math.log(parameters / S1_BACKBONE) / math.log(S4_BACKBONE / S1_BACKBONE)
    return min(1.0, max(0.0, place))


class LivePipeline:
    """The transforms of a data set that can be changed, as built.

    Worker processes hold copies: they see a change once they start anew.

    Args:
        dataset: of mmengine, or a wrapper around some.
    """

    def __init__(self, dataset: Any):
        pipelines = [one.pipeline.transforms for one in _plain(dataset)]
        self._sizes = [
            [
                (t, name, getattr(t, name))
                for t in transforms
                for kind, name in _SIZES
                if isinstance(t, kind) and getattr(t, name)
            ]
            for transforms in pipelines
        ]
        self._augments = [
            [
                (t, t.magnitude_level, t.num_policies)
                for t in transforms
                if isinstance(t, RandAugment)
            ]
            for transforms in pipelines
        ]

    def set_resolution(self, pixels: int) -> None:
        """Scale every size so that images come out with ``pixels``.

        Raises:
            SpecError: a pipeline has no transform that sets a size.
        """
        for sizes in self._sizes:
            if not sizes:
                kinds = ', '.join(kind.__name__ for kind, _ in _SIZES)
                raise SpecError(
                    f'the training pipeline has none of the transforms that set a size: {kinds}'
                )
            # The last one decides what comes out.
            last = sizes[-1][2]
            whole = last if isinstance(last, int) else max(last)
            for transform, name, size in sizes:
                setattr(transform, name, _scaled(size, pixels / whole))

    def set_magnitude(self, share: float) -> float:
        """Set RandAugment to a share of its own magnitude; 0 is off.

        Returns:
            The magnitude level in force.

        Raises:
            SpecError: a pipeline has no RandAugment, unless ``share`` is 0, or the level would be
                above its ``total_level``.
        """
        if share and not all(self._augments):
            raise SpecError('the training pipeline has no RandAugment whose magnitude could change')
        highest = 0.0
        for augment, level, policies in chain(*self._augments):
            if level * share > augment.total_level:
                raise SpecError(
                    f'magnitude {level * share:g} (strength times share times '
                    f"RandAugment's {level:g}) is above its total_level="
                    f'{augment.total_level}'
                )
            _set_level(augment, level * share, policies if share else 0)
            highest = max(highest, level * share)
        return highest

    def restore(self) -> None:
        """Put everything back as it was built."""
        for transform, name, size in chain(*self._sizes):
            setattr(transform, name, size)
        for augment, level, policies in chain(*self._augments):
            _set_level(augment, level, policies)


def _set_level(augment: RandAugment, level: float, policies: int) -> None:
    augment.num_policies = policies
    augment.magnitude_level = level
    for policy in augment.transforms:
        if getattr(policy, 'magnitude_range', None) is not None:
            policy.magnitude_level = level


def _plain(dataset: Any) -> Iterator[Any]:
    """The data sets inside of wrappers."""
    if hasattr(dataset, 'pipeline'):
        yield dataset
        return
    inner = getattr(dataset, 'dataset', None)
    for one in getattr(dataset, 'datasets', ()) or ([] if inner is None else [inner]):
        yield from _plain(one)


def _scaled(size: Any, factor: float) -> Any:
    if isinstance(size, int):
        return round(size * factor)
    return tuple(round(edge * factor) for edge in size)
