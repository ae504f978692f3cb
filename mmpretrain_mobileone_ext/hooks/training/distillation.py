"""Let a network learn from another one, beside its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor, nn

from ...checkpoints.class_names import ClassNames, check_consistent
from ...checkpoints.deploy_file import unwrap
from ...errors import MobileOneExtError, SpecError
from ...export.source import Source, load_source
from ...utils.checks import number, text
from ...utils.config import read_config, types_by_name
from ...utils.machine import untouched_rng
from ..run import leaves_preview

_OWN = 'DistillationHook'
_FILES = ('.mlpackage', '.mlmodel', '.aimodel')
#: What the losses of a step are called; mmengine sums all whose name has 'loss' in it.
_LOSS, _OF_LABELS, _OF_TEACHER = 'loss', 'loss_labels', 'loss_teacher'


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened predictions (arXiv 1503.02531, section 2).

    Args:
        student, teacher: logits (N, classes), of any float type.
        temperature: that both are divided by. Gradients shrink with its square, which the result is
            multiplied by.

    Returns:
        (), float32 or float64: the mean of the batch.
    """
    said, wanted = (
        F.log_softmax(logits.to(_precise(logits)) / temperature, dim=1)
        for logits in (student, teacher)
    )
    return F.kl_div(said, wanted, reduction='batchmean', log_target=True) * temperature**2


def _precise(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


@HOOKS.register_module()
class DistillationHook(Hook):
    """Train on what a teacher says of each image, and on its label (arXiv 1503.02531).

    The loss of a step is ``(1 - weight)`` times the head's own and ``weight`` times
    :func:`distillation_loss`. The log has both, ``loss_labels`` and ``loss_teacher``, as they are
    summed.

    The teacher sees the very batch that the network sees, after normalization and mixing. It is no
    part of the model: it is not trained, averaged, synchronized or saved, and checkpoints are those
    of a run without the hook. Each process has its own copy, on the device of the model.

    Args:
        teacher: config of a classifier: a file, ``'mmpretrain::resnet/resnet50_8xb32_in1k.py'``, or
            a dict that has a ``model``. It has the student's classes and normalization.
        checkpoint: its weights, with branches or folded; path or URL.
        temperature: at least 1.
        weight: share of the teacher in the loss, up to 1.

    Raises:
        SpecError: a wrong argument, or a teacher that cannot teach this model: other classes, other
            normalization, no logits, a Core ML file.
        MobileOneExtError: the teacher's config or checkpoint cannot be read, or do not fit.
    """

    def __init__(
        self,
        teacher: Union[str, Mapping[str, Any]],
        checkpoint: str,
        temperature: float = 4.0,
        weight: float = 0.9,
    ):
        if not isinstance(teacher, Mapping):
            text(f'{_OWN}: teacher', teacher)
        text(f'{_OWN}: checkpoint', checkpoint)
        if Path(checkpoint).suffix in _FILES:
            raise SpecError(
                f'{_OWN}: checkpoint={checkpoint!r}: a file for Core ML predicts one image after '
                'another on its pixels; a teacher is a checkpoint of torch'
            )
        self.teacher = teacher
        self.checkpoint = checkpoint
        self.temperature = number(f'{_OWN}: temperature', temperature, 1)
        self.weight = number(f'{_OWN}: weight', weight, 0, 1)
        self._handles: list[Any] = []

    def before_run(self, runner) -> None:
        """Leave a run that has no network to teach."""
        leaves_preview(self, runner)

    def before_train(self, runner) -> None:
        """Load the teacher and let it speak in every training step."""
        model = unwrap(runner.model)
        try:
            with untouched_rng():
                source = load_source(_config(self.teacher), self.checkpoint)
            _check(model, source, runner)
        except MobileOneExtError as error:
            raise type(error)(f'{_OWN}: {error}') from error
        teacher = source.model.requires_grad_(False).to(next(model.parameters()).device)
        self._detach()
        self._handles = _attach(model, teacher, self.temperature, self.weight)
        runner.logger.info(
            f'{_OWN}: {source.config_name} with {source.checkpoint or self.checkpoint} teaches, '
            f'weight {self.weight:g}, temperature {self.temperature:g}'
        )

    def after_train(self, runner) -> None:
        """Leave the model as it was."""
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _attach(model: Any, teacher: nn.Module, temperature: float, weight: float) -> list[Any]:
    """Add the teacher's loss to those of a model in training; returns what takes it off again.

    Torch's forward hooks, so that it holds in every wrapper. They are functions and not methods:
    whoever copies the model copies its hooks, and a function is not copied with all that it knows.
    """
    said: list[Tensor] = []

    def keep(head: nn.Module, _: Any, logits: Any) -> None:
        if head.training:
            said[:] = [logits]

    def add(module: nn.Module, args: tuple, kwargs: dict[str, Any], losses: Any) -> Any:
        mode = kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')
        if mode != 'loss' or not module.training:
            return None
        with torch.no_grad():
            wanted = teacher(kwargs['inputs'] if 'inputs' in kwargs else args[0], mode='tensor')
        student: Any = said.pop() if said else None
        _check_logits(student, wanted)
        taught = distillation_loss(student, wanted, temperature)
        own = {_OF_LABELS if name == _LOSS else name: value for name, value in losses.items()}
        shares = {k: _times(1 - weight, v) if _LOSS in k else v for k, v in own.items()}
        return {**shares, _OF_TEACHER: weight * taught}

    return [
        model.head.register_forward_hook(keep),
        model.register_forward_hook(add, with_kwargs=True),
    ]


def _times(factor: float, loss: Any) -> Any:
    """A loss, or a list of some."""
    return [factor * part for part in loss] if isinstance(loss, (list, tuple)) else factor * loss


def _config(teacher: Union[str, Mapping[str, Any]]) -> Config:
    if isinstance(teacher, Mapping):
        return types_by_name(Config(dict(teacher)))
    # As mmengine finds what is behind ``_base_``.
    path = Config._get_cfg_path(teacher, '')[0] if '::' in teacher else teacher
    if not Path(path).is_file():
        raise SpecError(f'teacher={teacher!r}: no such config file')
    return read_config(path)


def _check(model: Any, source: Source, runner) -> None:
    teacher: Any = source.model
    for who, one in (('the model', model), ('the teacher', teacher)):
        head = getattr(one, 'head', None)
        if not isinstance(head, nn.Module):
            raise SpecError(f'{who} is a {type(one).__name__} without a head, so it has no logits')
        if isinstance(head, MultiLabelClsHead):
            raise SpecError(
                f'{who} has a {type(head).__name__}, whose logits are of one label each; those of '
                'one class an image are allowed'
            )
    counts = [getattr(one.head, 'num_classes', None) for one in (model, teacher)]
    if None not in counts and counts[0] != counts[1]:
        raise SpecError(f'the teacher has {counts[1]} classes, and the model has {counts[0]}')
    own, other = (_normalization(one.data_preprocessor) for one in (model, teacher))
    if own != other:
        raise SpecError(f"the teacher's images are {other.words}, and the model's {own.words}")
    names = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    if names and source.classes:
        check_consistent(
            [
                ClassNames(tuple(map(str, names)), 'the data'),
                ClassNames(source.classes, "the teacher's checkpoint"),
            ],
            SpecError,
        )


class _Normalization(NamedTuple):
    """What a data preprocessor does to pixels; equal where it is the same."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool

    @property
    def words(self) -> str:
        flipped = ', channels reversed' if self.flips else ''
        return f'normalized with mean {list(self.mean)} and std {list(self.std)}{flipped}'


def _normalization(preprocessor: Any) -> _Normalization:
    if not isinstance(preprocessor, ClsDataPreprocessor):
        raise SpecError(
            f'the data_preprocessor is a {type(preprocessor).__name__}; allowed: '
            f'{ClsDataPreprocessor.__name__}'
        )
    mean, std = [0.0], [1.0]
    if preprocessor._enable_normalize:
        mean, std = (getattr(preprocessor, n).flatten().tolist() for n in ('mean', 'std'))
    pairs = [values[:1] if len(set(values)) == 1 else values for values in (mean, std)]
    return _Normalization(tuple(pairs[0]), tuple(pairs[1]), bool(preprocessor.to_rgb))


def _check_logits(student: Optional[Any], teacher: Any) -> None:
    if not isinstance(student, Tensor):
        raise SpecError(
            f"{_OWN}: the model's head computes its loss without logits; it gives "
            f'{type(student).__name__}'
        )
    if not isinstance(teacher, Tensor) or teacher.shape != student.shape:
        given = tuple(teacher.shape) if isinstance(teacher, Tensor) else type(teacher).__name__
        raise SpecError(
            f'{_OWN}: the teacher gives {given} where the model gives logits {tuple(student.shape)}'
        )
