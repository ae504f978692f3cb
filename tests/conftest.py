"""Shared fixtures; toy data, oracles and kits are in ``kits``."""

import gc
import signal

import pytest
import torch
from hypothesis import settings
from mmengine.registry import DefaultScope

import mmpretrain_mobileone_ext  # noqa: F401

pytest_plugins = ('tiny_programs',)

settings.register_profile('reproducible', derandomize=True, deadline=None, database=None)
settings.load_profile('reproducible')
# Under nohup it is ignored, which children inherit; tests send it.
if hasattr(signal, 'SIGHUP'):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Toy tensors: threads cost more than they bring.
torch.set_num_threads(1)


def pytest_collection_finish():
    """Take what every test shares out of garbage collection.

    mmengine's data sets and ``torch.export`` call ``gc.collect``, which looks at a million objects
    of imported libraries each time: a quarter of the time of a small export.
    """
    import coremltools  # noqa: F401
    import torch._dynamo  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _in_mmpretrains_scope():
    """Runners leave their scope behind, for whatever test comes next."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(autouse=True, scope='module')
def _modules_start_in_mmpretrains_scope():
    """As above, for fixtures that live longer than a test."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield
