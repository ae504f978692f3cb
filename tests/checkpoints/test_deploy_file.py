"""Writing a deploy file from a checkpoint file, without a run."""

import copy

import pytest
import torch
from helpers import assert_same_state, classifier_cfg, randomize_norms
from mmengine.runner import load_checkpoint, save_checkpoint
from mmpretrain.registry import MODELS

import mmpretrain_mobileone_ext.models.deploy as switch
from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.checkpoints.deploy_file import deploy_path, write_deploy_file
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError, ParityError
from mmpretrain_mobileone_ext.utils.files import file_sha256


def classifier(**cfg):
    return randomize_norms(MODELS.build(classifier_cfg(**cfg))).eval()


def test_a_folded_model_has_nothing_to_compare(saved):
    model, _, path = saved
    with pytest.raises(CheckpointError, match='folded already'):
        write_deploy_file(model.switch_to_deploy(), path)


def test_files_are_replaced_only_on_request(saved):
    model, _, path = saved
    before = path.read_bytes()
    for force in (False, True):
        with pytest.raises(CheckpointError, match='training checkpoint'):
            write_deploy_file(model, path, path, force=force)
    assert path.read_bytes() == before
    out = write_deploy_file(model, path)
    with pytest.raises(CheckpointError, match='--force'):
        write_deploy_file(model, path)
    assert write_deploy_file(model, path, force=True) == out


@pytest.fixture
def saved(tmp_path):
    """A model, and a checkpoint of other weights that fits it."""
    source = randomize_norms(classifier(), seed=7)
    path = tmp_path / 'epoch_3.pth'
    save_checkpoint(
        dict(
            state_dict=source.state_dict(),
            optimizer=dict(state={}),
            ema_state_dict=dict(steps=torch.zeros(1)),
            message_hub=dict(runtime_info=dict(iter=3)),
            meta=dict(
                epoch=3,
                cfg='model = 1',
                experiment_name='secret',
                dataset_meta=dict(classes=('a', 'b', 'c')),
            ),
        ),
        str(path),
    )
    return classifier(), source, path


def test_the_path_is_beside_the_checkpoint(tmp_path):
    assert deploy_path(tmp_path / 'best_top1_epoch_3.pth') == (
        tmp_path / 'best_top1_epoch_3_deploy.pth'
    )


def test_the_checkpoints_weights_are_folded_not_the_models(saved):
    model, source, path = saved
    before = copy.deepcopy(model.state_dict())
    out = write_deploy_file(model, path)
    assert out == deploy_path(path)
    assert_same_state(
        switch_to_deploy(source).state_dict(), load_checkpoint_file(out)['state_dict']
    )
    assert_same_state(before, model.state_dict())


def test_only_weights_and_their_origin_are_kept(saved):
    model, _, path = saved
    found = load_checkpoint_file(write_deploy_file(model, path))
    assert found.keys() == {'state_dict', 'meta'}
    assert found['meta'].keys() == {'epoch', 'dataset_meta', 'deploy'}
    record = found['meta']['deploy']
    assert record['source_file'] == path.name
    assert record['source_sha256'] == file_sha256(path)
    assert record['config_text'] == 'model = 1'


def test_the_callers_config_text_wins(saved):
    model, _, path = saved
    out = write_deploy_file(model, path, config_text='model = 2')
    record = load_checkpoint_file(out)['meta']['deploy']
    assert record['config_text'] == 'model = 2'


def test_the_file_loads_into_a_deploy_model_only(saved):
    model, source, path = saved
    out = str(write_deploy_file(model, path, path.parent / 'x/y.pth'))
    small = classifier(deploy=True)
    load_checkpoint(small, out)
    assert_same_state(switch_to_deploy(source).state_dict(), small.state_dict())
    with pytest.raises(CheckpointError, match='deploy checkpoint'):
        load_checkpoint(model, out)


def test_a_plain_state_dict_is_a_checkpoint_too(saved, tmp_path):
    model, source, _ = saved
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    out = write_deploy_file(model, tmp_path / 'weights.pth')
    assert_same_state(
        switch_to_deploy(source).state_dict(), load_checkpoint_file(out)['state_dict']
    )


@pytest.mark.parametrize('how', ['folded', 'head', 'missing file'])
def test_a_checkpoint_that_does_not_fit_writes_nothing(how, saved, tmp_path):
    model, _, path = saved
    if how == 'folded':
        path = write_deploy_file(model, path)
    elif how == 'head':
        model = classifier(num_classes=4)
    else:
        path = tmp_path / 'nothing.pth'
    with pytest.raises(CheckpointError):
        write_deploy_file(model, path)
    assert not deploy_path(path).exists()


def test_a_wrong_fold_writes_nothing(saved, monkeypatch):
    def corrupt(model, inplace=True):
        folded = switch_to_deploy(model, inplace)
        folded.head.fc.bias.data[0] += 1
        return folded

    model, _, path = saved
    monkeypatch.setattr(switch, 'switch_to_deploy', corrupt)
    with pytest.raises(ParityError):
        write_deploy_file(model, path, inputs=torch.rand(2, 3, 16, 16))
    assert not deploy_path(path).exists()


def test_a_folded_checkpoint_is_not_folded_again(saved, tmp_path):
    model, _, path = saved
    folded = write_deploy_file(model, path)
    bare = tmp_path / 'bare.pth'
    torch.save(load_checkpoint_file(folded)['state_dict'], bare)
    for checkpoint in (folded, bare):
        with pytest.raises(CheckpointError, match='is folded already; there is nothing'):
            write_deploy_file(model, checkpoint, tmp_path / 'again.pth')
    assert not (tmp_path / 'again.pth').exists()
