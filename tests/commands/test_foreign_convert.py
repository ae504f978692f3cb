"""Converted files: read by their code, traceable, never half-checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from foreign_kit import ours, scores, theirs
from helpers import assert_close, assert_same_state
from safetensors.torch import save_file

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.commands.checkpoints.convert import convert_checkpoint
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.utils.files import file_sha256

TOOL = Path(__file__).resolve().parents[2] / 'tools/convert_checkpoint.py'


@pytest.fixture
def timm_file(tmp_path):
    net = theirs('timm', 's0')
    path = tmp_path / 'timm.pth'
    torch.save(net.state_dict(), path)
    return net, path


@pytest.mark.slow
def test_the_tool_goes_to_ours_and_back_to_both(timm_file, tmp_path):
    net, path = timm_file
    mine, apple, back = (tmp_path / f'{n}.pth' for n in 'mab')
    for source, to, out in (
        (path, 'mmpretrain', mine),
        (mine, 'apple', apple),
        (apple, 'timm', back),
    ):
        done = subprocess.run(
            [sys.executable, str(TOOL), str(source), '--to', to, '--out', str(out)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == str(out)
    assert_same_state(net.state_dict(), torch.load(back)['state_dict'])
    record = torch.load(mine)['meta']['converted']
    assert record['source_sha256'] == file_sha256(path)
    assert record['source_layout'] == 'timm MobileOne (branches, with head)'
    assert record['arch'] == 's0'
    beside = json.loads((tmp_path / 'a.pth.provenance.json').read_text())
    assert beside['source_sha256'] == file_sha256(mine)
    assert 'stage1.0.rbr_conv.3.bn.weight' in torch.load(apple)


def test_folding_on_the_way_gives_timms_inference_form(timm_file, tmp_path):
    net, path = timm_file
    out = convert_checkpoint(path, 'timm', tmp_path / 'out.pth', fold=True)
    small = theirs('timm', 's0', folded=True)
    small.load_state_dict(torch.load(out)['state_dict'])
    assert_close(scores(net), scores(small), 1e-5)
    assert torch.load(out)['meta']['converted']['parity']


def test_timm_reads_what_is_written_for_it(timm_file, tmp_path):
    net, path = timm_file
    mine = convert_checkpoint(path, 'mmpretrain', tmp_path / 'm.pth')
    out = convert_checkpoint(mine, 'timm', tmp_path / 'out.pth')
    read = timm.create_model('mobileone_s0', num_classes=10, checkpoint_path=str(out))
    assert_same_state(net.state_dict(), read.state_dict())


def test_files_are_not_replaced_unasked(timm_file, tmp_path):
    _, path = timm_file
    out = convert_checkpoint(path, 'apple', tmp_path / 'out.pth')
    with pytest.raises(CheckpointError, match='--force'):
        convert_checkpoint(path, 'apple', out)
    convert_checkpoint(path, 'apple', out, force=True)
    with pytest.raises(CheckpointError, match='would replace the training'):
        convert_checkpoint(path, 'timm', path, force=True)


def test_what_is_incomplete_is_not_converted(timm_file, tmp_path):
    net, path = timm_file
    state = net.state_dict()
    del state['stages.1.2.conv_scale.bn.running_mean']
    torch.save(state, path)
    out = tmp_path / 'out.pth'
    with pytest.raises(CheckpointError, match='not the weights of s0'):
        convert_checkpoint(path, 'apple', out)
    with pytest.raises(CheckpointError, match='not the weights of s1'):
        convert_checkpoint(path, 'apple', out, arch='s1')
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match='not weights of MobileOne'):
        convert_checkpoint(path, 'apple', out)
    assert not out.exists()


def test_other_widths_need_their_architecture(tmp_path):
    arch = dict(num_blocks=1, width_factor=0.25)
    net = ConfigurableMobileOne(arch)
    path = tmp_path / 'small.pth'
    torch.save(net.state_dict(), path)
    with pytest.raises(CheckpointError, match='--arch'):
        convert_checkpoint(path, 'timm', tmp_path / 'out.pth')
    config = tmp_path / 'small.py'
    config.write_text(
        'model = dict(type="DeployableClassifier", backbone=dict('
        f'type="ConfigurableMobileOne", arch={arch!r}))\n'
    )
    out = convert_checkpoint(path, 'timm', tmp_path / 'out.pth', arch=str(config))
    again = ConfigurableMobileOne(arch)
    again.load_state_dict(torch.load(out)['state_dict'])
    assert_same_state(net.state_dict(), again.state_dict())


def test_safetensors_load(timm_file, tmp_path):
    net, _ = timm_file
    path = tmp_path / 'model.safetensors'
    save_file(net.state_dict(), str(path))
    mine = ours('s0')
    mine.load_state_dict(load_checkpoint_file(path)['state_dict'])
    assert_close(scores(net), scores(mine), 1e-5)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='safetensors'):
        load_checkpoint_file(path)


def test_timms_averaged_weights_are_the_ones(timm_file, tmp_path):
    net, path = timm_file
    averaged = net.state_dict()
    plain = {k: torch.zeros_like(v) for k, v in averaged.items()}
    torch.save(dict(epoch=3, arch='mobileone_s0', state_dict=plain, state_dict_ema=averaged), path)
    loaded = load_checkpoint_file(path)
    assert_same_state(averaged, loaded['state_dict'])
    assert 'state_dict_ema' not in loaded
    torch.save(dict(model=averaged), path)
    assert_same_state(averaged, load_checkpoint_file(path)['state_dict'])
