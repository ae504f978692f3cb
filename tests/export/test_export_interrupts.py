"""A real export, killed at random: old or new, whole, and a rerun succeeds.

The steps of giving a file its name are few and fast, so that random points miss them: they are
taken one by one.
"""

import gc
import os
import random
import shutil

import pytest
import torch
from export_kit import build, photos, save, snapshot, write_config
from kill_kit import cpu_seconds, killed_after, killed_at, stop_monitor

from mmpretrain_mobileone_ext import exporter as export
from mmpretrain_mobileone_ext.coreml import export_coreml, load_program
from mmpretrain_mobileone_ext.errors import ProgramError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked and killed'),
]
OLD, NEW = ('a', 'b', 'c'), ('x', 'y', 'z')
POINTS = 50
PIXELS = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
#: Options of the exports that are killed.
EXPORTS = [dict()]


class Scene:
    """A folder with an old package or none, and exports into it."""

    def __init__(self, root, options):
        self.config = write_config(root / 'c.py', photos(root / 'data', 1))
        self.checkpoint = save(build(), root / 'c.pth')
        self.options = options
        self.folder, self.spare = root / 'out', root / 'spare.mlpackage'
        self.folder.mkdir()
        self.target = self.folder / 'm.mlpackage'
        self.export(OLD)
        shutil.copytree(self.target, self.spare)
        self.old = snapshot(self.target)
        self.export(NEW)
        self.outputs = self.predict()
        self.files = set(snapshot(self.target))

    def export(self, classes=NEW):
        export_coreml(
            self.config,
            self.checkpoint,
            self.target,
            force=True,
            classes=classes,
            verify_data=2,
            **self.options,
        )

    def predict(self):
        return load_program(self.target).predict_batch({'image': PIXELS})

    def reset(self, has_old):
        if self.target.exists():
            shutil.rmtree(self.target)
        if has_old:
            shutil.copytree(self.spare, self.target)

    def found(self):
        """'old', 'new' or None; fails for anything else under the name."""
        others = set(os.listdir(self.folder)) - {self.target.name}
        assert all(
            name.startswith(f'.{self.target.name}.') and name.endswith('.partial')
            for name in others
        )
        if not os.path.lexists(self.target):
            return None
        if snapshot(self.target) == self.old:
            return 'old'
        assert load_program(self.target).classes == NEW
        assert set(snapshot(self.target)) == self.files
        found = self.predict()
        for name, wanted in self.outputs.items():
            assert torch.equal(found[name], wanted)
        return 'new'

    def check_rerun(self):
        self.export()
        assert self.found() == 'new'
        assert os.listdir(self.folder) == [self.target.name]


@pytest.fixture(scope='module', params=EXPORTS, ids=str)
def scene(request, tmp_path_factory):
    made = Scene(tmp_path_factory.mktemp('interrupts'), request.param)
    stop_monitor()
    # Children then need not copy every object when coremltools collects garbage.
    gc.collect()
    gc.freeze()
    yield made
    gc.unfreeze()


def test_killed_at_random(scene):
    whole = cpu_seconds(scene.export)
    draw, killed, seen = random.Random(0), 0, []
    while killed < POINTS:
        has_old = killed % 2 == 0
        scene.reset(has_old)
        # One point in each part of the time, so that all phases are hit.
        after = whole * (killed + draw.random()) / POINTS
        killed += killed_after(after, scene.export)
        seen.append(scene.found())
        assert has_old or seen[-1] != 'old'
        assert not has_old or seen[-1] is not None
    assert {'old', None} <= set(seen)
    scene.check_rerun()


def killed_at_every_step(scene, has_old, install, monkeypatch):
    """What is under the name after each step; the last one is not killed."""
    seen = []

    def step_by_step(made, target, force):
        spare = made.with_name('spare')
        shutil.copytree(made, spare)
        scene.reset(has_old)
        while killed_at(len(seen), lambda: install(made, target, force)):
            seen.append(scene.found())
            scene.reset(has_old)
            shutil.rmtree(made, ignore_errors=True)
            shutil.copytree(spare, made)
        seen.append(scene.found())

    with monkeypatch.context() as patch:
        patch.setattr(export, 'install', step_by_step)
        scene.export()
    return seen


@pytest.mark.parametrize('has_old', [True, False])
def test_killed_at_every_step_of_getting_its_name(scene, has_old, monkeypatch):
    seen = killed_at_every_step(scene, has_old, export.install, monkeypatch)
    first_new = seen.index('new')
    assert set(seen[:first_new]) == {'old' if has_old else None}
    assert set(seen[first_new:]) == {'new'}
    scene.check_rerun()


def test_half_a_package_would_be_noticed(scene, monkeypatch):

    def copy(made, target, force):
        shutil.copytree(made, target)

    with pytest.raises((AssertionError, ProgramError)):
        killed_at_every_step(scene, False, copy, monkeypatch)
