import hashlib
import os
import re
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpretrain_mobileone_ext.checkpoints import load as checkpoint
from mmpretrain_mobileone_ext.checkpoints.deploy_file import provenance
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file, save_checkpoint_atomic
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.utils import files as atomic_file
from mmpretrain_mobileone_ext.utils.files import file_sha256

PNG = b'\x89PNG\r\n\x1a\n' + bytes(64)


def weights():
    return OrderedDict(w=torch.arange(300.0), b=torch.ones(2))


def saved(tmp_path, value, **options):
    path = tmp_path / 'a.pth'
    torch.save(value, path, **options)
    return path


def failure(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint_file(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ')
    assert '\n' not in message
    return message


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('kind', [str, Path])
def test_load(tmp_path, is_zip, kind):
    path = saved(
        tmp_path,
        {'state_dict': weights(), 'meta': {'epoch': 3}},
        _use_new_zipfile_serialization=is_zip,
    )
    got = load_checkpoint_file(kind(path))
    assert got['meta'] == {'epoch': 3}
    assert torch.equal(got['state_dict']['w'], torch.arange(300.0))


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_no_damage(tmp_path, monkeypatch, error):
    def load(*args):
        raise error

    path = saved(tmp_path, {'state_dict': weights()})
    monkeypatch.setattr(checkpoint, 'restricted_load', load)
    message = failure(path)
    assert 'not enough memory' in message
    assert 'damaged' not in message


def test_load_plain_state_dict_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    saved(tmp_path, weights())
    assert list(load_checkpoint_file('~/a.pth')) == ['w', 'b']


def test_map_location(tmp_path):
    path = saved(tmp_path, weights())
    assert load_checkpoint_file(path, 'meta')['w'].is_meta
    got = load_checkpoint_file(path, lambda storage, location: storage)
    assert got['w'].device.type == 'cpu'


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'is empty'),
        (b'model = dict()\n', 'not a readable checkpoint'),
        (b'PK\x03\x04', 'not a readable checkpoint'),
        (b'\x80\x02', 'not a readable checkpoint'),
        (PNG, 'not a readable checkpoint'),
        (bytes(1000), 'not a readable checkpoint'),
    ],
)
def test_bytes_that_are_no_checkpoint(tmp_path, content, says):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    assert says in failure(path)


def test_missing_file_and_folder(tmp_path):
    assert 'no such checkpoint file' in failure(tmp_path / 'none.pth')
    assert 'must be a file' in failure(tmp_path)


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('part', [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, is_zip, part):
    path = saved(tmp_path, {'state_dict': weights()}, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * part))])
    failure(path)


@pytest.mark.parametrize(
    ('value', 'says'),
    [
        ([1, 2], 'holds a list'),
        (torch.ones(2), 'holds a Tensor'),
        ({}, 'it is empty'),
        ({'state_dict': {}}, "'state_dict' must be a dict of tensors"),
        ({'state_dict': [torch.ones(1)]}, 'is a list'),
        ({'state_dict': {'w': torch.ones(1), 'n': 'text'}}, "'n' (str)"),
        ({'state_dict': {'w': torch.ones(1), 'a': np.ones(1)}}, "'a' (ndarray)"),
        ({'state_dict': {1: torch.ones(1)}}, '1 (Tensor)'),
        ({'net': {'w': torch.ones(1)}, 'epoch': 1}, "'net' (dict)"),
        ({'state_dict': {str(i): i for i in range(9)}}, 'and 4 more'),
        ({'state_dict': weights(), 'meta': [1]}, "'meta' must be a dict"),
        ({'state_dict': weights(), 'message_hub': 1}, "'message_hub' must be"),
    ],
)
def test_contents_that_are_no_checkpoint(tmp_path, value, says):
    assert says in failure(saved(tmp_path, value))


def test_torch_load_has_no_say(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.delattr(torch, 'load')
    monkeypatch.delattr(torch._C, 'PyTorchFileReader')
    assert list(load_checkpoint_file(saved(tmp_path, weights()))) == ['w', 'b']


def disarmed(tmp_path, info=None, **meta):
    hub = {
        'log_scalars': {},
        'runtime_info': info or {},
        'resumed_keys': dict.fromkeys(info or {}, True),
    }
    path = saved(tmp_path, {'state_dict': weights(), 'meta': meta, 'message_hub': hub})
    return load_checkpoint_file(path)


@pytest.mark.parametrize('key', ['config', 'cfg'])
def test_config_text_is_kept_where_nothing_runs_it(tmp_path, key):
    got = disarmed(tmp_path, {'cfg': '1 / 0', 'seed': 1, 'mine': None}, **{key: '1 / 0'})
    assert got['meta'] == {'config_text': '1 / 0'}
    assert got['message_hub']['runtime_info'] == {'seed': 1, 'mine': None}
    assert got['message_hub']['resumed_keys'] == {'seed': True, 'mine': True}


@pytest.mark.parametrize(
    ('value', 'is_kept'), [([1, 2], True), (['../x'], False), ([True], False), ((1, 2), False)]
)
def test_numbers_of_checkpoints_that_a_resumed_run_would_delete(tmp_path, value, is_kept):
    got = disarmed(tmp_path, {'keep_ckpt_ids': value})['message_hub']
    assert ('keep_ckpt_ids' in got['runtime_info']) == is_kept
    assert ('keep_ckpt_ids' in got['resumed_keys']) == is_kept


BEST = 'best_accuracy_epoch_1.pth'
#: What a checkpoint says, and the file beside it that is meant.
NAMED = [
    ('best_ckpt', '{folder}/' + BEST, BEST),
    ('best_ckpt_loss', '{folder}/sub/../' + BEST, BEST),
    ('best_ckpt', f'/before/it/was/moved/{BEST}', BEST),
    ('best_ckpt', f'C:\\work\\run\\{BEST}', BEST),
    ('best_ckpt', '{folder}/sub/best_elsewhere.pth', None),
    ('best_ckpt', '{folder}/epoch_1.pth', None),
    ('best_ckpt', '{folder}/best_folder.pth', None),
    ('best_ckpt', '{folder}/best_link.pth', None),
    ('best_ckpt', '{folder}/best_gone.pth', None),
    ('best_ckpt', '{folder}/best_.pth/..', None),
    ('best_ckpt', f'{BEST}\0', None),
    ('best_ckpt', '/x/' + 'y' * 100_000 + '.pth', None),
    ('best_ckpt_accuracy/top1', '/etc', None),
    ('best_ckpt', 3, None),
    ('last_ckpt', '{folder}/epoch_1.pth', 'epoch_1.pth'),
    ('last_ckpt', '/before/it/was/moved/epoch_1.pth', 'epoch_1.pth'),
    ('last_ckpt', '{folder}/sub/best_elsewhere.pth', None),
    ('last_ckpt', '../sub', None),
    ('last_ckpt', '', None),
    ('last_ckpt', b'epoch_1.pth', None),
]


@pytest.mark.parametrize(
    ('key', 'value', 'meant'), NAMED, ids=[f'{k}-{v!s:.40}' for k, v, _ in NAMED]
)
def test_of_a_path_only_the_name_of_a_file_beside_is_believed(tmp_path, key, value, meant):
    folder, outside = tmp_path / 'run', tmp_path / 'outside.pth'
    (folder / 'sub').mkdir(parents=True)
    (folder / 'best_folder.pth').mkdir()
    for file in (folder / BEST, folder / 'epoch_1.pth', outside, folder / 'sub/best_elsewhere.pth'):
        file.write_bytes(b'kept')
    (folder / 'best_link.pth').symlink_to(outside)
    if isinstance(value, str):
        value = value.format(folder=folder)
    got = disarmed(folder, {key: value})['message_hub']
    found = got['runtime_info'].get(key)
    assert (key in got['resumed_keys']) == (meant is not None)
    assert (found is None) == (meant is None)
    if meant is not None:
        assert os.path.samefile(found, folder / meant)


def test_sha256(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'x' * 3_000_000)
    want = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path) == want
    with pytest.raises(CheckpointError, match='no such'):
        file_sha256(tmp_path / 'none')


def test_save(tmp_path):
    path = tmp_path / 'new' / 'a.pth'
    assert save_checkpoint_atomic({'state_dict': weights()}, path) == path
    assert torch.equal(load_checkpoint_file(path)['state_dict']['b'], torch.ones(2))
    assert os.listdir(path.parent) == ['a.pth']


def test_save_leaves_the_old_file_on_failure(tmp_path, monkeypatch):
    path = save_checkpoint_atomic(weights(), tmp_path / 'a.pth')
    before = path.read_bytes()
    with pytest.raises(Exception, match='pickle'):
        save_checkpoint_atomic({'state_dict': weights(), 'f': lambda: 0}, path)

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(atomic_file.os, 'fsync', full)
    with pytest.raises(CheckpointError, match='No space left'):
        save_checkpoint_atomic({}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['a.pth']


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='a fork has the limit')
@pytest.mark.parametrize('limit', [0, 100, 3000, 5000])
def test_a_disk_that_is_full_before_the_end_of_the_zip_file(tmp_path, limit):
    """torch says 'unexpected pos' in place of the disk's own words."""
    path = save_checkpoint_atomic(weights(), tmp_path / 'a.pth')
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        # Larger files are refused, by EFBIG: Python ignores the signal.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save_checkpoint_atomic({'w': torch.zeros(5000)}, path)
        except CheckpointError as error:
            one_line = f'{path} cannot be written: [Errno 27] File too large'
            os._exit(0 if str(error) == one_line else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['a.pth']


def test_what_torch_cannot_save_is_no_full_disk(tmp_path):
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match='same data as different types'):
        save_checkpoint_atomic({'a': shared, 'b': shared.view(torch.int32)}, tmp_path / 'a.pth')
    assert os.listdir(tmp_path) == []


def test_save_into_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(CheckpointError, match='cannot be written'):
        save_checkpoint_atomic({}, tmp_path / 'file' / 'a.pth')


def test_provenance_is_plain_and_loads_back(tmp_path):
    source = saved(tmp_path, weights())
    meta = provenance(
        source,
        'model = dict()',
        {
            'atol': 1e-5,
            'max_abs': torch.tensor(2.0),
            'n': np.int64(3),
            'ok': True,
            'per_batch': (np.float32(0.5), None),
        },
    )
    path = save_checkpoint_atomic({'state_dict': weights(), 'meta': meta}, tmp_path / 'b.pth')
    assert load_checkpoint_file(path)['meta'] == meta
    assert meta['source_file'] == 'a.pth'
    assert meta['source_sha256'] == file_sha256(source)
    assert meta['config_text'] == 'model = dict()'
    assert meta['parity'] == {
        'atol': 1e-5,
        'max_abs': 2.0,
        'n': 3,
        'ok': True,
        'per_batch': [0.5, None],
    }
    assert type(meta['versions']['torch']) is str
    assert set(meta['versions']) == {'mmpretrain_mobileone_ext', 'torch', 'mmengine', 'mmpretrain'}
    assert re.fullmatch(r'\d{4}(-\d\d){2}T\d\d:\d\d:\d\d\+00:00', meta['created'])


def test_provenance_refuses_what_is_not_plain():
    with pytest.raises(CheckpointError, match=r'parity\.figures\[0\]'):
        provenance(parity={'figures': [torch.ones(2)]})
    assert 'source_file' not in provenance()
