"""Parsers of the commands that take times."""

from __future__ import annotations

from ...errors import SpecError
from ..benchmark.gpu.options import GpuOptions
from ..benchmark.latency.options import LatencyOptions
from ..benchmark.quantization.options import QuantizationOptions
from ..benchmark.runtime_options import RuntimeOptions
from ..benchmark.training.options import BenchmarkOptions
from ..cli import ToolParser


def training_parser() -> ToolParser:
    """The arguments; values are checked by ``BenchmarkOptions``."""
    p = ToolParser(
        error_type=SpecError,
        description='What a training step (forward, loss, '
        'backward) costs in every form of MobileOne, step by step '
        'in turns in one process, and how exactly the forms agree.',
    )
    p.add_fields(BenchmarkOptions)
    return p


def runtime_parser() -> ToolParser:
    """The arguments; values are checked by ``RuntimeOptions``."""
    p = ToolParser(
        error_type=SpecError,
        description='Throughput of the reference runtime against '
        'the folded torch network, in turns in one process, and '
        'the time of a whole export with its verification.',
    )
    p.add_fields(RuntimeOptions)
    return p


def quantization_parser() -> ToolParser:
    """The arguments; values are checked by ``QuantizationOptions``."""
    p = ToolParser(
        error_type=SpecError,
        description='Train one network in several ways, each equally long, export each to Core '
        'ML with weights and activations of few bits, and score the files on the test split with '
        "MMPretrain's own tool. Run it again to go on: what is done is skipped, what was "
        'interrupted resumes.',
    )
    p.add_fields(QuantizationOptions)
    return p


def gpu_parser() -> ToolParser:
    """The arguments; values are checked by ``GpuOptions``."""
    p = ToolParser(
        error_type=SpecError,
        description='Check on this GPU, in a few minutes, that units train there as their branches '
        'do in float64, and how long a training step of every network takes in every form. Each '
        'part is a process of its own. Exit code: 0, 1 where a comparison failed, 2 where nothing '
        'could be run.',
    )
    p.add_fields(GpuOptions)
    return p


def latency_parser() -> ToolParser:
    """The arguments; values are checked by ``LatencyOptions``."""
    p = ToolParser(
        error_type=SpecError,
        description='Fit the model of time on the Neural Engine to latencies that were published '
        'for an iPhone 12, on Core ML files of those very networks, which are built and exported '
        'here. Each network is predicted by a fit to all others; errors and rank correlation '
        'stand beside those of multiply-adds and of parameters alone.',
    )
    p.add_fields(LatencyOptions)
    return p
