"""The values that a weight takes in a form, computed without coremltools."""
from __future__ import annotations

import numpy as np

from .palette import SUM_WEIGHT, Palettes
from .weight_form import Form, group_size


def prune_threshold(values: np.ndarray, percent: int) -> float:
    """The magnitude up to which ``percent`` of the values become zero.

    coremltools finds it by ``numpy.percentile`` in the dtype of the weight;
    in fp16 that overflows for more than 65504 weights and then prunes
    nothing at all (coremltools 9.0, NumPy 2).

    Args:
        values: a weight of any shape.
        percent: 1 to 99.
    """
    magnitudes = np.abs(values.reshape(-1).astype(np.float64))
    count = max(1, len(magnitudes) * percent // 100)
    return float(np.partition(magnitudes, count - 1)[count - 1])


def approximate(values: np.ndarray, form: Form, target: str,
                palettes: Palettes) -> np.ndarray:
    """What ``values`` become when they are stored in ``form``.

    Args:
        values: fp16 or fp32, output channels first.
        target: deployment target, which decides how many tables there are.
        palettes: clusters, and remembers.

    Returns:
        float64, of the same shape.
    """
    dense, kept = values.astype(np.float64), np.ones(values.shape, bool)
    if form.pruned:
        kept = np.abs(dense) > prune_threshold(values, form.pruned)
        dense = np.where(kept, dense, 0)
    if form.code == 'int8':
        dense = int8(dense)
    elif form.code == 'table':
        size = group_size(values.shape, form.bits, target)
        sparse = np.where(kept, values, 0).astype(values.dtype)
        for start in range(0, len(values), size):
            part = slice(start, start + size)
            table, indices = palettes(
                sparse[part], form.bits, form.pruned > 0)
            dense[part] = table[indices]
    return np.where(kept, dense, 0)


def int8(values: np.ndarray, per_channel: bool = True) -> np.ndarray:
    """Round to 256 equidistant numbers from the least to the largest.

    That is coremltools' mode 'linear': zero is always among the numbers.

    Args:
        values: output channels first.
        per_channel: an own scale for every output channel; else one.

    Returns:
        float64, of the same shape.
    """
    rows = values.astype(np.float64).reshape(
        len(values) if per_channel else 1, -1)
    low = np.minimum(rows.min(1, keepdims=True), 0)
    high = np.maximum(rows.max(1, keepdims=True), 0)
    scale = (high - low) / 255
    scale[scale == 0] = 1
    zero = np.round(-128 - low / scale)
    steps = np.clip(np.round(rows / scale) + zero, -128, 127)
    return ((steps - zero) * scale).reshape(values.shape)


def relative_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """||approximation - values|| / ||values||; 0 for a weight of zeros."""
    exact = values.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(approximation - exact)) / norm if norm else 0.0


def output_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """What an approximation does to the output, as a share, squared.

    sum(e^2) + SUM_WEIGHT * sum(e)^2 of each filter's errors e, relative to
    the same of the weights: inputs behind a ReLU have a mean, see
    :mod:`.palette`. 0 for a weight of zeros.
    """
    exact = values.astype(np.float64)
    norm = _energy(exact)
    return _energy(approximation - exact) / norm if norm else 0.0


def _energy(values: np.ndarray) -> float:
    rows = values.reshape(len(values), -1)
    return float((rows**2).sum() + SUM_WEIGHT * (rows.sum(1)**2).sum())
