"""What importing the package does: names, configs, and no heavy import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS

import mmpretrain_mobileone_ext as package

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    p for p in (ROOT / 'configs').rglob('*.py') if not {'_base_', 'mmdeploy'} & set(p.parts)
)

FRESH = """
import json, sys
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings
cfg = Config.fromfile(sys.argv[1])
import_modules_from_strings(**cfg.custom_imports)
from mmengine.runner import Runner
runner = Runner.from_cfg(Config.fromfile(sys.argv[2]))
print(json.dumps(dict(
    heavy=[m for m in sys.modules
           if m.split('.')[0] in ('coremltools', 'mmdeploy')],
    model=type(runner.model).__name__,
    backbone=type(runner.model.backbone).__name__,
    hooks=[type(h).__name__ for h in runner.hooks
           if 'Deploy' in type(h).__name__])))
"""


def test_custom_imports_alone_register_everything_and_import_little(tmp_path):
    config = ROOT / 'configs/digits/mobileone-tiny_bs64_digits.py'
    child = tmp_path / 'child.py'
    child.write_text(f"""
_base_ = "mmpretrain_mobileone_ext::digits/{config.name}"
work_dir = {str(tmp_path)!r}
custom_hooks = [dict(type='DeploySwitchHook')]
""")
    done = subprocess.run(
        [sys.executable, '-c', FRESH, str(config), str(child)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == dict(
        heavy=[],
        model='DeployableClassifier',
        backbone='ConfigurableMobileOne',
        hooks=['DeploySwitchHook'],
    )
    assert 'WARNING' not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ('registry', 'name'),
    [
        (MODELS, 'ConfigurableMobileOne'),
        (MODELS, 'DeployableClassifier'),
        (MODELS, 'CoreMLClassifier'),
        (HOOKS, 'DeploySwitchHook'),
        (HOOKS, 'CoreMLExportHook'),
    ],
)
def test_names_are_registered(registry, name):
    assert registry.get(name) is getattr(package, name)


def test_mmpretrain_keeps_its_own_mobileone():
    assert MODELS.get('MobileOne').__module__.startswith('mmpretrain.')


def test_public_names_exist():
    assert all(hasattr(package, name) for name in package.__all__)


#: Large ones of which there are several like them.
LARGE = re.compile('-s[1-4]_|-mu[12]|finetune')


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if LARGE.search(p.stem) else [])
        for p in CONFIGS
    ],
)
def test_each_config_builds_and_folds(path, tmp_path):
    name = path.relative_to(ROOT / 'configs').as_posix()
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = "mmpretrain_mobileone_ext::{name}"\n')
    inherited, own = (MODELS.build(Config.fromfile(str(p)).model) for p in (child, path))
    inherited.load_state_dict(own.state_dict())
    assert package.verified_switch_to_deploy(inherited)[1].relative < 1e-4


def test_a_wheel_holds_configs_and_tools(tmp_path):
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    mim = tmp_path / package.__name__ / '.mim'
    for folder in ('configs', 'tools'):
        copies = {p.relative_to(mim) for p in (mim / folder).rglob('*.py')}
        assert copies == {p.relative_to(ROOT) for p in (ROOT / folder).rglob('*.py')}
    assert (mim / 'model-index.yml').is_file()
    assert not any(p.is_symlink() for p in mim.rglob('*'))
    assert not list(mim.rglob('__pycache__'))
    # Whatever else lies among the modules: templates, kernels, schemas.
    source = ROOT / package.__name__
    tracked = subprocess.run(
        ['git', 'ls-files', package.__name__], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    wanted = {ROOT / name for name in tracked if '/.mim/' not in name}
    built = tmp_path / package.__name__
    made = {source / p.relative_to(built) for p in built.rglob('*')}
    assert len(wanted) > 200
    assert wanted <= made
    assert (tmp_path / 'mobileone_ext.py').is_file()
