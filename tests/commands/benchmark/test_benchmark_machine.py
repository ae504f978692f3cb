"""Where it was measured, and threads that are given back."""

import pytest
import torch

from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.utils.machine import check_device, machine, tf32, torch_threads


def test_the_machine_is_described():
    found = machine('cpu')
    assert found['cpu']
    assert found['cores'] >= 1
    assert found['gpu'] is None
    assert found['versions']['torch'] == torch.__version__.split('+')[0]
    assert 'mmpretrain' in found['versions']


def test_threads_are_given_back():
    before = torch.get_num_threads()

    def fail():
        with torch_threads(before + 1):
            raise KeyError(torch.get_num_threads())

    with pytest.raises(KeyError, match=str(before + 1)):
        fail()
    assert torch.get_num_threads() == before


def test_no_gpu_is_said_in_one_line(monkeypatch):
    check_device('cpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SpecError, match='no usable GPU'):
        check_device('cuda')


@pytest.mark.parametrize('allowed', [True, False])
def test_tf32_is_given_back(allowed):
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = state()
    with tf32(allowed) as told:
        assert state() == tuple(told.values()) == (allowed, allowed)
    assert state() == before
    with tf32() as told:
        assert state() == tuple(told.values()) == before
