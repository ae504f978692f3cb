"""Fixtures for the compiled kernels: a cache, a compiler, the lines said."""

import pytest
from native_kit import compiled, fake_compiler

from mmpretrain_mobileone_ext.models.online import kernels as native


@pytest.fixture(scope='module')
def stub(tmp_path_factory):
    """A library with all names, made in no time."""
    return compiled(tmp_path_factory.mktemp('stub'), '')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where libraries are kept."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache/mmpretrain_mobileone_ext'


@pytest.fixture
def said(monkeypatch):
    """The lines that a user would see."""
    lines = []
    monkeypatch.setattr(native, '_warn', lines.append)
    return lines


@pytest.fixture
def calls(tmp_path, monkeypatch, stub):
    """The calls of a compiler that works."""
    return fake_compiler(tmp_path, monkeypatch, f'cp {stub} "$out"')
