"""Whether two values as they are in checkpoints are the same."""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def assert_same(got, want):
    """Same types, keys in the same order, dtypes, strides and bits."""
    assert type(got) is type(want)
    kinds = [k for k in _CHECKS if isinstance(want, k)]
    if kinds:
        _CHECKS[kinds[0]](got, want)
    else:
        assert got == want


def _tensors(got, want):
    assert got.dtype == want.dtype
    assert got.stride() == want.stride()
    assert got.requires_grad == want.requires_grad
    assert torch.equal(got, want)


def _arrays(got, want):
    # numpy makes the byte order native, before pickle protocol 5.
    native = [value.dtype.newbyteorder('=') for value in (got, want)]
    assert native[0] == native[1]
    np.testing.assert_array_equal(got, want)


def _histories(got, want):
    for pair in zip(got.data, want.data):
        np.testing.assert_array_equal(*pair)
    assert got.max_length == want.max_length
    assert got.statistics('mean') == want.statistics('mean')


def _dicts(got, want):
    assert list(got) == list(want)
    for key in want:
        assert_same(got[key], want[key])


def _sequences(got, want):
    assert len(got) == len(want)
    for pair in zip(got, want):
        assert_same(*pair)


_CHECKS = {
    torch.Tensor: _tensors,
    np.ndarray: _arrays,
    np.generic: _arrays,
    HistoryBuffer: _histories,
    dict: _dicts,
    list: _sequences,
    tuple: _sequences,
}
