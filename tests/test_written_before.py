"""Files, names and keys of before the package was rearranged still work.

``data/written_before`` was made by the revision before that: ``epoch_1.pth`` by a run of one epoch
with ``config.py`` on random images, its deploy file by ``DeploySwitchHook``, ``tiny.mlpackage``
(fp16) and ``tiny.mlmodel`` by ``export_coreml``, and ``numbers.json`` by predicting with all four.
They are never written anew.
"""

import importlib
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmpretrain.models import MobileOne
from mmpretrain.registry import MODELS

import mmpretrain_mobileone_ext as package
from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.utils.files import file_sha256

ROOT = Path(__file__).resolve().parents[1]
BEFORE = ROOT / 'tests/data/written_before'
NUMBERS = json.loads((BEFORE / 'numbers.json').read_text('utf-8'))
#: Terms of all sums that lie between a pixel and a logit: five convolutions of 3 x 3 x 3, 9, 8, 9
#: and 8 terms, the mean of 16 x 16 pixels at most, and the head's 16. Each may be rounded, in
#: another order elsewhere.
TERMS = 27 + 9 + 8 + 9 + 8 + 256 + 16


def pixels():
    """Two images (2, 3, 16, 16) of whole numbers, the same everywhere."""
    i = torch.arange(2 * 3 * 16 * 16)
    return ((i * i * 31 + i * 7) % 251).reshape(2, 3, 16, 16)


def is_close(found, name, bound):
    """Whether the largest error is within ``bound`` of the largest value."""
    wanted = torch.tensor(NUMBERS[name], dtype=torch.float64)
    error = (torch.as_tensor(found).double() - wanted).abs().max()
    return bool(error <= bound * wanted.abs().max())


def model(**backbone):
    cfg = Config.fromfile(BEFORE / 'config.py').model
    cfg.backbone.update(backbone)
    return MODELS.build(cfg).eval()


@torch.no_grad()
def logits(network):
    data = network.data_preprocessor({'inputs': pixels().to(torch.uint8)}, False)
    return network(data['inputs'], mode='tensor')


@pytest.mark.parametrize(
    ('name', 'form'), [('epoch_1.pth', {}), ('epoch_1_deploy.pth', dict(deploy=True))]
)
def test_checkpoint_gives_its_numbers(name, form):
    network, state = model(**form), load_checkpoint_file(BEFORE / name)['state_dict']
    network.load_state_dict(state, strict=True)
    bound = TERMS * torch.finfo(torch.float32).eps
    assert is_close(logits(network), 'logits', bound)
    state['head.fc.weight'][0, 0] += 1e-3
    network.load_state_dict(state)
    assert not is_close(logits(network), 'logits', bound)


def test_run_of_before_can_be_resumed_from():
    found = load_checkpoint_file(BEFORE / 'epoch_1.pth')
    assert set(found) >= {'optimizer', 'param_schedulers', 'ema_state_dict', 'message_hub'}
    loss = found['message_hub']['log_scalars']['train/loss']
    assert type(loss) is HistoryBuffer
    assert len(loss.data[0]) == 3  # iterations
    assert found['meta']['epoch'] == 1
    assert 'ConfigurableMobileOne' in found['meta']['config_text']


def test_deploy_file_is_still_made_the_same_way(tmp_path):
    again = write_deploy_file(model(), BEFORE / 'epoch_1.pth', tmp_path / 'again.pth')
    found, before = (load_checkpoint_file(p) for p in (again, BEFORE / 'epoch_1_deploy.pth'))
    assert list(found['state_dict']) == list(before['state_dict'])
    for key, value in before['state_dict'].items():
        # A folded weight is a sum of four branches, each with its norm's root.
        torch.testing.assert_close(found['state_dict'][key], value, rtol=1e-6, atol=1e-6)
    source = before['meta']['deploy']['source_sha256']
    assert source == file_sha256(BEFORE / 'epoch_1.pth')
    assert source == found['meta']['deploy']['source_sha256']


@pytest.mark.parametrize('name', ['tiny.mlpackage', 'tiny.mlmodel'])
@pytest.mark.parametrize('arithmetic', ['fp32', 'fp16'])
def test_core_ml_file_gives_its_numbers(name, arithmetic):
    loaded = load_program(BEFORE / name, arithmetic=arithmetic)
    found = loaded.predict_batch({'image': pixels().float()})['classLabel_probs']
    # A softmax adds three terms; in fp16 every operation rounds its result.
    bound = (TERMS + 3) * torch.finfo(torch.float32).eps
    if arithmetic == 'fp16':
        operations = sum(loaded.program.count_operations().values())
        bound += operations * torch.finfo(torch.float16).eps
    assert is_close(found, f'{name} {arithmetic}', bound)
    assert not is_close(found.flip(1), f'{name} {arithmetic}', bound)


@pytest.mark.parametrize('arch', ['s0', 's1', 's2', 's3', 's4'])
@pytest.mark.parametrize('deploy', [False, True])
def test_state_dict_keys_are_mmpretrains(arch, deploy):
    with torch.device('meta'):
        ours, theirs = (
            kind(arch, deploy=deploy).state_dict() for kind in (ConfigurableMobileOne, MobileOne)
        )
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]


def test_public_names():
    names = {
        'mmpretrain_mobileone_ext': ('switch_to_deploy', 'DeploySwitchHook', 'CoreMLClassifier'),
        'mmpretrain_mobileone_ext.coreml': ('export_coreml', 'load_program'),
    }
    for module, held in names.items():
        assert all(hasattr(importlib.import_module(module), name) for name in held)
    for name in ('ConfigurableMobileOne', 'DeployableClassifier', 'CoreMLClassifier'):
        assert MODELS.get(name) is getattr(package, name)
    assert HOOKS.get('DeploySwitchHook') is package.DeploySwitchHook
    for tool in ('train', 'test', 'export_coreml'):
        assert (ROOT / f'tools/{tool}.py').is_file()


def test_modules_of_before_are_found_by_their_names(tmp_path):
    """As ``custom_imports`` and types in configs that runs of before wrote."""
    (tmp_path / 'config.py').write_text(
        f'custom_imports = dict(imports=[{package.__name__!r}, '
        f"'{package.__name__}.engine.cpu_ranks'], allow_failed_imports=False)\n"
        f"hook = dict(type='{package.__name__}.engine.deploy_hook.DeploySwitchHook')\n"
    )
    config = Config.fromfile(tmp_path / 'config.py')
    assert type(HOOKS.build(config.hook)) is package.DeploySwitchHook
    hooks = [name for name in package.hooks.__all__ if HOOKS.get(name)]
    assert len(hooks) == len(package.hooks.__all__)
    with pytest.raises(ImportError):
        importlib.import_module(f'{package.__name__}.engine.gone')
