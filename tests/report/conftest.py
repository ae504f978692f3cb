"""Fixtures of the report tests: a work dir as a demo leaves it, tiny."""

import shutil
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory):
    """A config, both checkpoints and two Core ML files; never change it."""
    from report_kit import finish_run

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return finish_run(tmp_path_factory.mktemp('run') / 'run')


@pytest.fixture
def work_dir(finished_run, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / 'work'))
