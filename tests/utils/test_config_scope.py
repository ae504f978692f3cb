"""A clone whose symbolic links are text files, as git makes on Windows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpretrain_mobileone_ext.utils.config import MIM

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'mmpretrain_mobileone_ext'

USE = """
import json, sys
import mmpretrain_mobileone_ext as package
from mmengine.config import Config
from mmpretrain import list_models
from mmpretrain_mobileone_ext.utils.config import MIM
from mmpretrain_mobileone_ext.utils.doctor.facts import MATRIX
from mmpretrain_mobileone_ext.commands.training.to_phone import run_tool
from mmpretrain_mobileone_ext.utils.text import PlainConsole
from pathlib import Path
run_tool('doctor.py', ['--help'], Path('log.txt'), 'doctor', PlainConsole())
*configs, missing = sys.argv[1:]
try:
    Config.fromfile(missing)
except FileNotFoundError as error:
    refused = str(error)
print(json.dumps(dict(
    package=package.__file__, mim=str(MIM), matrix=MATRIX.read_text('utf-8'),
    arch=[Config.fromfile(path).model.backbone.get('arch')
          for path in configs],
    refused=refused,
    helped=Path('log.txt').read_text('utf-8'),
    hub=list_models('*mobileone-ext-s0*'))))
"""


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """Like ``git -c core.symlinks=false clone``, of the working tree."""
    root = tmp_path_factory.mktemp('clone')
    for name in (PACKAGE, 'configs', 'tools'):
        shutil.copytree(
            ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__')
        )
    for name in ('model-index.yml', 'requirements-tested.txt'):
        shutil.copy(ROOT / name, root)
    links = [p for p in (root / PACKAGE).rglob('*') if p.is_symlink()]
    for link in links:
        target = os.readlink(link)
        link.unlink()
        link.write_text(target, 'utf-8')
    assert {p.name for p in links} == {
        'configs',
        'tools',
        'model-index.yml',
        'requirements-tested.txt',
    }
    return root


def test_it_imports_resolves_configs_and_runs_tools(clone, tmp_path):
    configs = []
    # One that the model index names, one that it does not, one that is not there.
    for name in (
        'mobileone/mobileone-ext-s2_8xb32_in1k.py',
        'finetune/mobileone-s0_finetune_image-folder.py',
        'digits/nothing.py',
    ):
        configs.append(tmp_path / Path(name).name)
        configs[-1].write_text(f'_base_ = "{PACKAGE}::{name}"\n', 'utf-8')
    done = subprocess.run(
        [sys.executable, '-c', USE, *map(str, configs)],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(clone)},
        encoding='utf-8',
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found['package']).parent == clone / PACKAGE
    assert found['mim'] == str(clone)
    assert str(clone / 'configs/digits/nothing.py') in found['refused']
    assert found['arch'] == ['s2', 's0']
    assert 'torch==' in found['matrix']
    assert found['helped'].startswith('usage: doctor.py')
    assert found['hub'] == ['mobileone-ext-s0_8xb32_in1k']


def test_with_links_mmengine_finds_configs_itself():
    assert MIM.name == '.mim'
    assert Config._get_cfg_path.__module__ == 'mmengine.config.config'
