"""How fast a model is tested, validated and trained, beside its accuracy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from ...errors import SpecError
from ...models.deploy import form_of
from ...utils.checks import integer, selection
from ...utils.files import write_json
from ...utils.machine import peak_bytes, reset_peak
from ..run import leaves_preview

_STAGES = ('val', 'test')


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Let ``runner.test()`` and validation return how fast the model is.

    Added to the metrics: ``throughput`` (images/s), ``latency_median``, ``latency_p90``,
    ``latency_p99`` (ms a batch), ``data_time_share`` (0 to 1) and ``peak_memory`` (MB, 1e6 bytes;
    tensors on a GPU, the process's resident memory on a CPU); see :func:`summarize`. Model time is
    that of ``test_step`` or ``val_step`` alone: preprocessing on the device, network and
    predictions, with a GPU synchronized before and after. Metrics and the other hooks are not in
    it. Data time is the wait for the next batch. On several ranks throughput is summed, latencies
    are pooled.

    The same figures with form, device, threads and batch size go to the log and to
    ``throughput_<stage>.json`` in the run's log folder. A model whose branches are not folded is
    measured as it is, with a warning.

    Args:
        warmup: batches at the beginning that are not counted.
        when: any of 'val' and 'test'.

    Raises:
        SpecError: a wrong argument, or no batch left after the warm-up (said before the run).
    """

    # First: metrics have to be there before other hooks log them, and what others do in
    # ``before_*_iter`` is not waiting for data.
    priority = 'HIGHEST'

    def __init__(self, warmup: int = 5, when: Sequence[str] = _STAGES):
        self.warmup = integer('ThroughputHook: warmup', warmup)
        self.when = selection('ThroughputHook: when', when, _STAGES)
        self._laps: list[Lap] = []
        self._timer: Optional[_StepTimer] = None
        self._ready = 0.0
        self._waited = 0.0
        self._facts: dict[str, Any] = {}

    def before_run(self, runner) -> None:
        """Refuse a warm-up that leaves nothing to measure."""
        for stage in self.when:
            loop = getattr(runner, f'_{stage}_loop', None)
            if isinstance(loop, BaseLoop) and len(loop.dataloader) <= self.warmup:
                raise SpecError(
                    f'ThroughputHook: warmup={self.warmup} leaves none of the '
                    f'{len(loop.dataloader)} batches of {stage} to measure; '
                    'lower warmup or the batch size'
                )

    def _before_epoch(self, runner, mode: str = 'train') -> None:
        self._laps = []
        self._facts = {}
        self._ready = time.perf_counter()

    def _before_iter(self, runner, batch_idx, data_batch=None, mode: str = 'train') -> None:
        if mode not in self.when:
            return
        self._waited = time.perf_counter() - self._ready
        if batch_idx == self.warmup:
            self._facts = _facts(runner.model)
            reset_peak(_device(runner.model))
        self._timer = _StepTimer(runner.model, f'{mode}_step')

    def _after_iter(
        self, runner, batch_idx, data_batch=None, outputs=None, mode: str = 'train'
    ) -> None:
        timer, self._timer = self._timer, None
        if timer is None:
            return
        seconds = timer.stop()
        if batch_idx >= self.warmup:
            self._laps.append(Lap(len(outputs), seconds, self._waited))
        self._ready = time.perf_counter()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Add the figures to the metrics."""
        self._report(runner, 'val', metrics)

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Add the figures to the metrics, which the loop returns."""
        self._report(runner, 'test', metrics)

    def _report(self, runner, stage: str, metrics: Optional[dict]) -> None:
        if stage not in self.when or metrics is None:
            return
        peak = peak_bytes(_device(runner.model))
        ranks = all_gather_object(RankLaps(tuple(self._laps), peak))
        figures = summarize(ranks)
        taken = sorted(set(figures) & set(metrics))
        if taken:
            raise SpecError(
                f'ThroughputHook: an evaluator gives {taken} as well; give that metric a prefix'
            )
        metrics.update(figures)
        if is_main_process():
            record = dict(
                **figures,
                **self._facts,
                stage=stage,
                batch_size=batch_size(ranks),
                ranks=len(ranks),
                batches=sum(len(r.laps) for r in ranks),
                warmup=self.warmup,
            )
            _write(runner, record)


@HOOKS.register_module()
class TrainThroughputHook(Hook):
    """Log the training's images a second, of each rank and of all.

    Every ``interval`` iterations of an epoch: a log line with the rate of each rank, and the scalar
    ``train/throughput``, their sum. A rate is images over wall time since the line before, loading
    included; the first ``warmup`` iterations of an epoch, in which workers start, are left out, and
    so is what happens between epochs.

    Args:
        interval: iterations between two lines.
        warmup: iterations of each epoch that are not counted.

    Raises:
        SpecError: no positive interval, a negative warm-up.
    """

    # After the iteration's work, before LoggerHook (BELOW_NORMAL) logs.
    priority = 'NORMAL'

    def __init__(self, interval: int = 50, warmup: int = 5):
        self.interval = integer('TrainThroughputHook: interval', interval, 1)
        self.warmup = integer('TrainThroughputHook: warmup', warmup)
        self._images = 0
        self._start = 0.0

    def before_run(self, runner) -> None:
        """Leave a run that has no images to count."""
        leaves_preview(self, runner)

    def before_train_epoch(self, runner) -> None:
        """Start counting anew."""
        self._restart()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the images; every ``interval`` iterations say how fast."""
        if batch_idx < self.warmup:
            self._restart()
            return
        self._images += len(data_batch['inputs'])
        if not self.every_n_inner_iters(batch_idx, self.interval):
            return
        seconds = time.perf_counter() - self._start
        rates = all_gather_object(self._images / seconds)
        total = sum(rates)
        runner.message_hub.update_scalar('train/throughput', total)
        each = ', '.join(f'{rate:.0f}' for rate in rates)
        runner.logger.info(f'TrainThroughputHook: {total:.0f} img/s; by worker {each}')
        self._restart()

    def _restart(self) -> None:
        self._images = 0
        self._start = time.perf_counter()


@dataclass(frozen=True)
class Lap:
    """One batch.

    Attributes:
        images: how many it had.
        model_s: seconds of the model's own step.
        data_s: seconds spent waiting for the batch.
    """

    images: int
    model_s: float
    data_s: float


@dataclass(frozen=True)
class RankLaps:
    """What one rank measured.

    Attributes:
        laps: without those of the warm-up.
        peak_bytes: peak memory; None where the system does not say.
    """

    laps: tuple[Lap, ...]
    peak_bytes: Optional[int]


def summarize(ranks: Sequence[RankLaps]) -> dict[str, float]:
    """Figures of an epoch over all ranks.

    Returns:
        ``throughput``: images per second of model time, summed over ranks.
        ``latency_median``, ``latency_p90``, ``latency_p99``: ms a batch,
        over the batches of the most frequent size (a last, smaller one is another thing).
        ``data_time_share``: 0 to 1, waiting for data over waiting and model.
        ``peak_memory``: MB (1e6 bytes) of the rank that needs most; left
        out where unknown.
    """
    laps = [lap for rank in ranks for lap in rank.laps]
    model = sum(lap.model_s for lap in laps)
    data = sum(lap.data_s for lap in laps)
    size = batch_size(ranks)
    ms = [1e3 * lap.model_s for lap in laps if lap.images == size]
    median, p90, p99 = np.percentile(ms, (50, 90, 99))
    figures = dict(
        throughput=sum(_rate(rank.laps) for rank in ranks),
        latency_median=float(median),
        latency_p90=float(p90),
        latency_p99=float(p99),
        data_time_share=data / (data + model),
    )
    peaks = [r.peak_bytes for r in ranks if r.peak_bytes is not None]
    if peaks:
        figures['peak_memory'] = max(peaks) / 1e6
    return figures


def batch_size(ranks: Sequence[RankLaps]) -> int:
    """The most frequent number of images in a batch."""
    sizes = Counter(lap.images for rank in ranks for lap in rank.laps)
    return max(sizes, key=lambda size: (sizes[size], size))


def _rate(laps: Sequence[Lap]) -> float:
    seconds = sum(lap.model_s for lap in laps)
    return sum(lap.images for lap in laps) / seconds if laps else 0.0


class _StepTimer:
    """Times a model's step, from outside, for one call."""

    def __init__(self, model: nn.Module, step: str):
        self._model, self._step = model, step
        self._run = getattr(model, step)
        self._seconds = 0.0
        # In the instance, where it hides the method of the class.
        model.__dict__[step] = self._timed

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        self._give_back()
        _synchronize(self._model)
        start = time.perf_counter()
        outputs = self._run(*args, **kwargs)
        _synchronize(self._model)
        self._seconds = time.perf_counter() - start
        return outputs

    def _give_back(self) -> None:
        self._model.__dict__.pop(self._step, None)

    def stop(self) -> float:
        """Seconds that the step took."""
        self._give_back()
        return self._seconds


def _synchronize(model: nn.Module) -> None:
    device = _device(model)
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return torch.device('cpu') if tensor is None else tensor.device


def _facts(model: nn.Module) -> dict[str, Any]:
    """Form, device and threads of the measurement."""
    from ...utils.machine import machine

    form, device = form_of(model), _device(model)
    if form == 'Core ML':  # our runtime, or Apple's
        device = torch.device('cpu')
    return dict(
        form=form, device=str(device), threads=torch.get_num_threads(), machine=machine(device.type)
    )


def _write(runner, record: dict[str, Any]) -> None:
    peak = record.get('peak_memory')
    if record['form'] == 'branches':
        runner.logger.warning(
            'ThroughputHook: the model is not folded, so this is the speed of its training form; '
            'add DeploySwitchHook to custom_hooks, or call switch_to_deploy() first'
        )
    runner.logger.info(
        f'ThroughputHook: {record["form"]} on {record["device"]}, {record["threads"]} threads, '
        f'{record["ranks"]} rank(s), batch {record["batch_size"]}: {record["throughput"]:.1f} '
        f'img/s; ms a batch: median {record["latency_median"]:.2f}, p90 '
        f'{record["latency_p90"]:.2f}, p99 {record["latency_p99"]:.2f}; '
        f'{100 * record["data_time_share"]:.1f} % of the time waiting for data; peak memory '
        f'{"unknown" if peak is None else f"{peak:.0f} MB"}'
    )
    path = Path(runner.log_dir) / f'throughput_{record["stage"]}.json'
    write_json(path, record)
