import json

import pytest
import torch

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError

library = pytest.importorskip('safetensors.torch')
W = torch.arange(1000.0)


def saved(tmp_path):
    path = tmp_path / 'a.safetensors'
    library.save_file({'w': W}, str(path))
    return path


def raw(tmp_path, header, data=b''):
    text = json.dumps(header).encode()
    path = tmp_path / 'a.safetensors'
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    return path


def test_loaded_weights_do_not_change_with_the_file(tmp_path):
    path = saved(tmp_path)
    state = load_checkpoint_file(path)['state_dict']
    with open(path, 'r+b') as handle:
        handle.seek(-W.nbytes, 2)
        handle.write(bytes(W.nbytes))
    assert state['w'].equal(W)


@pytest.mark.parametrize('place', ['meta', torch.device('meta'), {'cpu': 'meta'}], ids=str)
def test_places(tmp_path, place):
    assert load_checkpoint_file(saved(tmp_path), place)['state_dict']['w'].is_meta


def entry(start, end, size=1):
    return dict(dtype='F32', shape=[size], data_offsets=[start, end])


@pytest.mark.parametrize(
    ('header', 'says'),
    [
        ({'a': entry(0, 4), 'b': entry(0, 4)}, 'invalid offset'),
        ({'a': entry(4, 8)}, 'invalid offset'),
        ({'a': entry(0, 4)}, 'not fully covered'),
        ({'a': entry(0, 8, 1 << 60)}, 'not a readable'),
        ({str(i): entry(0, 0, 0) for i in range(80_000)}, 'at most 4194304'),
    ],
)
def test_hostile_headers(tmp_path, header, says):
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint_file(raw(tmp_path, header, bytes(8)))


def test_header_longer_than_the_file(tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes((3 << 20).to_bytes(8, 'little') + b'{}')
    with pytest.raises(CheckpointError, match='a header of 3145728 bytes'):
        load_checkpoint_file(path)
