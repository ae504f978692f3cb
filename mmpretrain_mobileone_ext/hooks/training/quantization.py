"""Train what ships: weights and activations of few bits, with all branches alive."""

from __future__ import annotations

from typing import Any, Optional, Union

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...checkpoints.deploy_file import unwrap
from ...errors import SpecError
from ...models.deploy import form_of
from ...models.quantization import Quantizer, add_quantizers, quantizers
from ...utils.accuracy import INT4_BLOCK
from ...utils.checks import integer, number, refuse
from ..bn_recalibration import BNRecalibrationHook
from ..run import check_order, first_of, leaves_preview

When = Union[int, float]
#: What files hold; quantizers can do more.
_WEIGHTS, _ACTIVATIONS = (8, 4), (8, None)


@HOOKS.register_module()
class QuantizationHook(Hook):
    """Quantization-aware training of a network whose branches are folded as they train.

    From ``start`` on, every unit computes its folded convolution with a kernel rounded to
    ``weights`` bits, and, where ``activations`` is given, an input rounded by one scale; linear
    layers too. 8 bits have one scale an output channel. 4 bits are those of the exporter's
    ``int4``, unless others are asked for: one scale a block of 32 input channels, and 8 bits for
    sensitive layers. Gradients pass the rounding (straight-through) and go to all branches and
    norms, whose bias makes up for what rounding would do to an output's mean (see
    ``models/quantization.py``). What is validated, and folded by ``DeploySwitchHook``, is the
    rounded network; ``--compress trained`` exports the very integers.

    Checkpoints have the keys of a network without the hook, and the quantizers' own. They can be
    resumed, and loaded by a network whose config has no such hook.

    Args:
        weights: bits of weights, 8 or 4.
        activations: bits of activations, 8, or None: they stay as they are.
        start: when rounding begins: an epoch, counted from 0 (in a run by iterations, an
            iteration), or a share of the run, a float below 1.
        freeze_stats: from when on ranges and means of activations, and the norms' statistics, stay
            and are used (arXiv 1712.05877, section 3.1); as ``start``; None: never.
        observer: what the range of an input follows: ``'max'``, each batch's largest magnitude, or
            ``'percentile'``, its 99.99th percentile.
        block_size: input channels of an output channel that share a scale, of weights of 4 bits;
            None, and where it does not divide their number: all of them.
        sensitive: least bits of the weights of sensitive layers, 8 or 4: the first layer, depthwise
            ones, those of fewer than 2048 weights, and the classifier.

    Raises:
        SpecError: a wrong argument, a model with nothing to round, or a priority that puts the hook
            behind ``EMAHook``, which copies the model.
    """

    # Before EMAHook (NORMAL) copies the model.
    priority = 'HIGH'

    def __init__(
        self,
        weights: int = 8,
        activations: Optional[int] = None,
        start: When = 0,
        freeze_stats: Optional[When] = None,
        observer: str = 'max',
        block_size: Optional[int] = INT4_BLOCK,
        sensitive: int = 8,
    ):
        Quantizer(weights, activations, observer=observer)
        if weights not in _WEIGHTS or activations not in _ACTIVATIONS:
            raise SpecError(
                f'QuantizationHook: weights={weights}, activations={activations}; a file holds '
                'weights of 8 or 4 bits, and activations of 8 or None'
            )
        if block_size is not None:
            integer('QuantizationHook: block_size', block_size, 1)
        if type(sensitive) is not int or sensitive not in _WEIGHTS:
            refuse('QuantizationHook: sensitive', sensitive, '8, 4')
        self.options: dict[str, Any] = dict(
            weights=weights,
            activations=activations,
            observer=observer,
            block_size=block_size,
            sensitive=sensitive,
        )
        self.start = _when('start', start)
        self.freeze_stats = None if freeze_stats is None else _when('freeze_stats', freeze_stats)
        self._phase = Quantizer.OFF

    def before_run(self, runner) -> None:
        """Give the model its quantizers, before weights are loaded and averaged."""
        if leaves_preview(self, runner):
            return
        check_order(runner.hooks, self, before=[EMAHook])
        if any(isinstance(hook, BNRecalibrationHook) for hook in runner.hooks):
            raise SpecError(
                'QuantizationHook: BNRecalibrationHook measures the statistics of what is not '
                'rounded; leave one of them out'
            )
        model = unwrap(runner.model)
        if form_of(model) == 'Core ML':
            return
        given, left = add_quantizers(model, **self.options)
        if not given:
            raise SpecError(
                f'QuantizationHook: {type(model).__name__} has no unit and no linear layer to '
                'quantize'
            )
        if left:
            runner.logger.warning(
                f'QuantizationHook: not quantized, as they are more than convolutions and batch '
                f'norms: {", ".join(left)}'
            )

    def before_train(self, runner) -> None:
        """Refuse a plan that the run is too short for."""
        total = _total(runner)
        begin = first_of(self.start, total)
        freeze = total if self.freeze_stats is None else first_of(self.freeze_stats, total)
        if begin >= total or freeze <= begin:
            raise SpecError(
                f'QuantizationHook: start={self.start!r}, freeze_stats={self.freeze_stats!r}: the '
                f'run has {total}; rounding must begin within it, and before statistics are frozen'
            )

    def before_train_epoch(self, runner) -> None:
        """Begin to round, or to freeze, where it is time."""
        self._follow(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """The same, in a run by iterations."""
        if not _by_epochs(runner):
            self._follow(runner)

    def before_val_epoch(self, runner) -> None:
        """Round the averaged network as well, before it is scored."""
        _share(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """The same, before it is saved."""
        _share(runner)

    def _follow(self, runner) -> None:
        now, total = (runner.epoch if _by_epochs(runner) else runner.iter), _total(runner)
        phase = Quantizer.OFF
        if now >= first_of(self.start, total):
            phase = Quantizer.ON
        if self.freeze_stats is not None and now >= first_of(self.freeze_stats, total):
            phase = Quantizer.FROZEN
        for own in quantizers(unwrap(runner.model)):
            own.phase = phase
        if phase != self._phase:
            runner.logger.info(f'QuantizationHook: {self._words(phase)}')
        self._phase = phase

    def _words(self, phase: int) -> str:
        if phase == Quantizer.OFF:
            return 'nothing is rounded yet'
        if phase == Quantizer.FROZEN:
            return 'ranges and statistics are frozen'
        activations = self.options['activations']
        inputs = f', activations to {activations}' if activations else ''
        weights, sensitive = (self.options[name] for name in ('weights', 'sensitive'))
        kept = f', of sensitive layers to {sensitive}' if sensitive > weights else ''
        return f'weights are rounded to {weights} bits{kept}{inputs}'


def _share(runner) -> None:
    """Give averaged networks the ranges, means and phase that the trained one has.

    ``EMAHook`` with ``update_buffers`` never copies integers, by which a quantizer is on, and
    averages the others from 0 on. Ranges and means are running averages already.
    """
    model = unwrap(runner.model)
    averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    for average in averages:
        for own, copied in zip(quantizers(model), quantizers(average)):
            for name, value in own.named_buffers():
                copied.get_buffer(name).copy_(value)
            copied.phase = own.phase


def _when(name: str, value: Any) -> When:
    if type(value) is int and value >= 0:
        return value
    number(f'QuantizationHook: {name}', value, 0)
    if not (isinstance(value, float) and value < 1):
        raise SpecError(
            f'QuantizationHook: {name}={value!r}; allowed are an epoch, from 0 on, or a share of '
            'the run, a float below 1'
        )
    return value


def _by_epochs(runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _total(runner) -> int:
    return runner.max_epochs if _by_epochs(runner) else runner.max_iters
