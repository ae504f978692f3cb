"""Throughput, latency and memory beside accuracy."""
from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from ..atomic_file import write_whole
from ..errors import SpecError
from ..models.form import form_of
from ..option_checks import integer, selection
from .laps import Lap, RankLaps, batch_size, summarize
from .peak_memory import peak_bytes, reset_peak

_STAGES = ('val', 'test')


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Let ``runner.test()`` and validation return how fast the model is.

    Added to the metrics: ``throughput`` (images/s), ``latency_median``,
    ``latency_p90``, ``latency_p99`` (ms a batch), ``data_time_share`` (0 to
    1) and ``peak_memory`` (MB, 1e6 bytes; tensors on a GPU, the process's
    resident memory on a CPU); see :func:`laps.summarize`. Model time is that
    of ``test_step`` or ``val_step`` alone: preprocessing on the device,
    network and predictions, with a GPU synchronized before and after. Metrics
    and the other hooks are not in it. Data time is the wait for the next
    batch. On several ranks throughput is summed, latencies are pooled.

    The same figures with form, device, threads and batch size go to the log
    and to ``throughput_<stage>.json`` in the run's log folder. A model whose
    branches are not folded is measured as it is, with a warning.

    Args:
        warmup: batches at the beginning that are not counted.
        when: any of 'val' and 'test'.

    Raises:
        SpecError: a wrong argument, or no batch left after the warm-up (said
            before the run).
    """

    # First: metrics have to be there before other hooks log them, and what
    # others do in ``before_*_iter`` is not waiting for data.
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
            if isinstance(loop, BaseLoop) and \
                    len(loop.dataloader) <= self.warmup:
                raise SpecError(
                    f'ThroughputHook: warmup={self.warmup} leaves none of the '
                    f'{len(loop.dataloader)} batches of {stage} to measure; '
                    'lower warmup or the batch size')

    def _before_epoch(self, runner, mode: str = 'train') -> None:
        self._laps = []
        self._facts = {}
        self._ready = time.perf_counter()

    def _before_iter(self, runner, batch_idx, data_batch=None,
                     mode: str = 'train') -> None:
        if mode not in self.when:
            return
        self._waited = time.perf_counter() - self._ready
        if batch_idx == self.warmup:
            self._facts = _facts(runner.model)
            reset_peak(_device(runner.model))
        self._timer = _StepTimer(runner.model, f'{mode}_step')

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None,
                    mode: str = 'train') -> None:
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
            raise SpecError(f'ThroughputHook: an evaluator gives {taken} as '
                            'well; give that metric a prefix')
        metrics.update(figures)
        if is_main_process():
            record = dict(
                **figures, **self._facts, stage=stage,
                batch_size=batch_size(ranks), ranks=len(ranks),
                batches=sum(len(r.laps) for r in ranks), warmup=self.warmup)
            _write(runner, record)


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
    from ..benchmark.machine import machine
    form, device = form_of(model), _device(model)
    if form == 'Core ML':  # our runtime, or Apple's
        device = torch.device('cpu')
    return dict(form=form, device=str(device),
                threads=torch.get_num_threads(),
                machine=machine(device.type))


def _write(runner, record: dict[str, Any]) -> None:
    peak = record.get('peak_memory')
    if record['form'] == 'branches':
        runner.logger.warning(
            'ThroughputHook: the model is not folded, so this is the speed of '
            'its training form; add DeploySwitchHook to custom_hooks, or '
            'call switch_to_deploy() first')
    runner.logger.info(
        f'ThroughputHook: {record["form"]} on {record["device"]}, '
        f'{record["threads"]} threads, {record["ranks"]} rank(s), batch '
        f'{record["batch_size"]}: {record["throughput"]:.1f} img/s; ms a '
        f'batch: median {record["latency_median"]:.2f}, '
        f'p90 {record["latency_p90"]:.2f}, p99 {record["latency_p99"]:.2f}; '
        f'{100 * record["data_time_share"]:.1f} % of the time waiting for '
        'data; peak memory '
        f'{"unknown" if peak is None else f"{peak:.0f} MB"}')
    path = Path(runner.log_dir) / f'throughput_{record["stage"]}.json'
    text = json.dumps(record, indent=2) + '\n'
    write_whole(path, partial(Path.write_text, data=text,
                              encoding='utf-8'))
