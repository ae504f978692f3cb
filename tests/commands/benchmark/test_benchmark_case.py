"""A case: turns, counts, and failures that stay in their row."""

import pytest
import torch
from benchmark_kit import toy_step
from torch import nn
from torch._dynamo.exc import Unsupported

from mmpretrain_mobileone_ext.commands.benchmark.training import case as case_module
from mmpretrain_mobileone_ext.commands.benchmark.training.case import (
    NOT_COMPILED,
    OUT_OF_MEMORY,
    measure_case,
    measure_fitting,
    steps_of_case,
)
from mmpretrain_mobileone_ext.commands.benchmark.training.options import BenchmarkOptions
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case
from mmpretrain_mobileone_ext.utils.explain import is_out_of_memory

OPTIONS = BenchmarkOptions(steps=3, warmup=1)
FORMS = ('branches', 'auto', 'folded')


class Broken(nn.Module):
    """Raises from its n-th call on."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return x


@pytest.fixture
def measured(monkeypatch):
    """Measures toys instead of forms; ``extra`` adds layers to a form."""

    def measure(extra=None, forms=FORMS, **kwargs):

        def toys(forms, arch, device, channels_last):
            return [
                toy_step([nn.Conv2d(3, 3, 1), *(extra or {}).get(form, [])], form=form).candidate
                for form in forms
            ]

        monkeypatch.setattr(case_module, 'build_candidates', toys)
        return measure_case(OPTIONS, forms, 's0', 2, 8, **kwargs)

    return measure


def test_every_form_is_measured(measured):
    advanced = []
    case = measured(advance=advanced.append)
    assert [c.form for c in case.costs] == list(FORMS)
    assert all(len(c.step_ms) == 3 and c.first_ms > 0 for c in case.costs)
    assert all(c.saved_bytes == 0 and not c.failure for c in case.costs)
    assert sum(advanced) == steps_of_case(OPTIONS, FORMS, 2, 8) == 3 * 7


def test_forms_take_turns(measured):
    order = []

    class Seen(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.form = form

        def forward(self, x):
            if torch.is_grad_enabled():
                order.append(self.form)
            return x

    measured({form: [Seen(form)] for form in FORMS})
    b, a, f = FORMS
    assert order[:3] == [b, a, f]  # first steps
    assert order[3:6] == [b, a, f]  # warm-up
    assert order[6:15] == [b, a, f, a, f, b, f, b, a]  # timed


@pytest.mark.parametrize('after', [0, 3])
def test_out_of_memory_stays_in_its_row(measured, after):
    error = RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."
    )
    case = measured({'auto': [Broken(error, after)]})
    failed = case.cost('auto')
    assert failed.failure == OUT_OF_MEMORY
    assert len(failed.step_ms) == max(after - 2, 0)
    assert failed.saved_bytes is None
    assert len(case.cost('folded').step_ms) == 3
    assert case.cost('branches').failure is None


def test_other_errors_are_not_hidden(measured):
    with pytest.raises(RuntimeError, match='a bug'):
        measured({'auto': [Broken(RuntimeError('a bug'))]})


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError('CUDA'))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError('shapes do not match'))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_torch_says_so_in_these_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_case_for_all_forms_or_none(measured):
    error = torch.cuda.OutOfMemoryError('CUDA')
    advanced = []
    case = measured({'auto': [Broken(error)]}, together=True, advance=advanced.append)
    assert (case.costs, case.skipped) == ((), OUT_OF_MEMORY)
    assert sum(advanced) == len(FORMS)  # nobody was timed
    # Later it is the one form that had a step before.
    case = measured({'auto': [Broken(error, after=1)]}, together=True)
    assert [c.failure for c in case.costs] == [None, OUT_OF_MEMORY, None]


def room_for(images):
    """Measures where memory suffices for so many images."""
    return lambda batch: Case('s0', batch, 32, skipped=OUT_OF_MEMORY if batch > images else None)


@pytest.mark.parametrize(
    ('images', 'taken'),
    [(256, 256), (255, 128), (40, 32), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_a_batch_is_halved_until_it_fits(images, taken):
    case = measure_fitting(room_for(images), 256)
    assert (case.batch, case.asked, case.skipped) == (taken, 256, None)
    note = f's0, {taken}x3x32x32: 256 images need more memory than there is'
    assert case.notes == ([] if taken == 256 else [note])


def test_a_case_is_left_out_where_no_batch_fits():
    # One image of 32 pixels cannot be normalized.
    case = measure_fitting(room_for(1), 8)
    assert case.notes == ['left out s0, 8x3x32x32: out of memory, 2 images too']


def test_what_does_not_compile_stays_in_its_row(measured):
    case = measured({'auto': [Broken(Unsupported('a trap\nof two lines'))]})
    assert case.cost('auto').failure == f'{NOT_COMPILED}: Unsupported: a trap of two lines'
    assert len(case.cost('folded').step_ms) == 3
    (note,) = case.notes
    assert note.startswith('s0, 2x3x8x8: auto does not compile: ')


@pytest.mark.parametrize(('form', 'forgets'), [('auto', False), ('auto compiled', True)])
def test_compiled_forms_start_from_scratch(measured, monkeypatch, form, forgets):
    resets = []
    monkeypatch.setattr(torch._dynamo, 'reset', lambda: resets.append(None))
    measured(forms=(form,))
    assert bool(resets) == forgets
