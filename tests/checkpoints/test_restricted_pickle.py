import copyreg
import io
import pickle
import tarfile
import time
import zipfile
from collections import Counter
from random import Random

import malicious_pickles as bad
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.checkpoints.safe_pickle import restricted_load
from mmpretrain_mobileone_ext.errors import CheckpointError

FORMATS = pytest.mark.parametrize('wrap', [bad.zip_file, bad.legacy_file], ids=['zip', 'legacy'])


def appears(marker):
    """Whether a file exists, or comes to within five seconds."""
    deadline = time.monotonic() + 5
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return marker.exists()


def refusal(tmp_path, data):
    path = tmp_path / 'checkpoint.pth'
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint_file(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: refuses to load: ')
    assert '\n' not in message
    return message


@FORMATS
@pytest.mark.parametrize(
    ('asked', 'build'), [a[1:] for a in bad.ATTACKS], ids=[a[0] for a in bad.ATTACKS]
)
def test_attack_is_refused_by_name(tmp_path, asked, build, wrap):
    marker = tmp_path / 'marker'
    data = wrap(build(marker) + bad.STOP)
    assert asked in refusal(tmp_path, data)
    assert not marker.exists()


@pytest.mark.parametrize('build', [a[2] for a in bad.ATTACKS], ids=[a[0] for a in bad.ATTACKS])
def test_attack_works_on_plain_pickle(tmp_path, build):
    marker = tmp_path / 'marker'
    # Some attacks end in an error, after they have done their work.
    try:
        pickle.loads(build(marker) + bad.STOP)
    except (TypeError, AttributeError) as error:
        print(error)
    assert appears(marker)


@FORMATS
@pytest.mark.parametrize(
    ('asked', 'payload'), [m[1:] for m in bad.MISUSES], ids=[m[0] for m in bad.MISUSES]
)
def test_misuse_of_admitted_names_is_refused(tmp_path, asked, payload, wrap):
    message = refusal(tmp_path, wrap(payload + bad.STOP))
    # A misuse is quoted with repr, so its own quotes may be escaped.
    assert asked in message.replace("\\'", "'")


@FORMATS
def test_attack_below_harmless_data_is_refused(tmp_path, wrap):
    marker = tmp_path / 'marker'
    evil = bad.call(bad.name('os', 'system'), bad.touch(marker))
    payload = bad.dic(state_dict=bad.dic(w=bad.lst(b'N', evil)))
    assert "'os.system'" in refusal(tmp_path, wrap(payload + bad.STOP))
    assert not marker.exists()


def test_attacks_in_the_head_and_tail_of_a_legacy_file(tmp_path):
    marker = tmp_path / 'marker'
    evil = b'\x80\x02' + bad.call(bad.name('os', 'system'), bad.touch(marker)) + bad.STOP
    good = bad.legacy_file(pickle.dumps({}, 2))
    assert 'os.system' in refusal(tmp_path, evil + good)
    tail = good[: -len(pickle.dumps([], 2))] + evil
    assert 'os.system' in refusal(tmp_path, tail)
    assert not marker.exists()


def test_registered_extension_code_is_refused(tmp_path):
    marker = tmp_path / 'marker'
    payload = bad.call(b'\x82\xf0', bad.touch(marker)) + bad.STOP
    copyreg.add_extension('os', 'system', 0xF0)
    try:
        assert 'EXT1' in refusal(tmp_path, bad.zip_file(payload))
        assert not marker.exists()
        pickle.loads(payload)
        assert marker.exists()
    finally:
        copyreg.remove_extension('os', 'system', 0xF0)


def test_class_state_is_never_set(tmp_path):
    payload = (
        bad.name('collections', 'Counter') + bad.tup(b'N', bad.dic(hacked=b'N')) + b'b' + bad.STOP
    )
    refusal(tmp_path, bad.zip_file(payload))
    assert not hasattr(Counter, 'hacked')
    pickle.loads(payload)
    assert Counter.hacked is None
    del Counter.hacked


def test_statistics_of_a_pickle_do_not_replace_mmengines():
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    state = {**buffer.__dict__, 'statistics_methods': {}}
    state['statistics_methods']['mean'] = HistoryBuffer.max
    payload = bad._BUFFER + b')\x81' + pickle.dumps(state, 2)[2:-1] + b'b'
    loaded = restricted_load(io.BytesIO(bad.zip_file(payload + bad.STOP)))
    assert loaded.statistics('mean') == 2.0
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2.0


class Scripted(torch.nn.Module):
    def forward(self, x):
        return x + 1


def test_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / 'script.pt'
    torch.jit.script(Scripted()).save(str(path))
    message = refusal(tmp_path, path.read_bytes())
    assert 'TorchScript' in message
    with pytest.warns(UserWarning, match='TorchScript'):
        assert torch.load(path, weights_only=False)(torch.ones(1)) == 2


def test_torchscript_by_constants_alone_is_refused(tmp_path):
    data = io.BytesIO(bad.zip_file(pickle.dumps({}, 2)))
    with zipfile.ZipFile(data, 'a') as archive:
        archive.writestr('archive/constants.pkl', b'')
    assert 'TorchScript' in refusal(tmp_path, data.getvalue())


def test_tar_archive_is_refused(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('storages'))
    assert 'tar archive' in refusal(tmp_path, data.getvalue())


def test_backward_hooks_are_dropped():
    # An OrderedDict with an entry where torch.save writes an empty one.
    hooks = bad.call(bad.name('collections', 'OrderedDict')) + (
        b'K\x01' + bad.call(bad.name('torch', 'Size'), bad.tup()) + b's'
    )
    payload = tensor(storage('FloatStorage', 2), 0, 2, 1, hooks) + bad.STOP
    loaded = restricted_load(io.BytesIO(bad.zip_file(payload)))
    assert not loaded._backward_hooks
    loaded.requires_grad_().sum().backward()


def storage(kind, numel, *view):
    return (
        bad.tup(
            bad.text('storage'),
            bad.name('torch', kind),
            bad.text('0'),
            bad.text('cpu'),
            b'J' + numel.to_bytes(4, 'little', signed=True),
            *view,
        )
        + b'Q'
    )


def tensor(stored, offset, size, stride, hooks=b'N'):
    number = [b'K' + bytes([n]) for n in (offset, size, stride)]
    return bad.call(
        bad.name('torch._utils', '_rebuild_tensor_v2'),
        stored,
        number[0],
        bad.tup(number[1]),
        bad.tup(number[2]),
        b'\x89',
        hooks,
    )


@pytest.mark.parametrize(
    ('payload', 'asked'),
    [
        (storage('FloatStorage', 3), 'claims 12 bytes, the file holds 8'),
        (storage('FloatStorage', -1), 'a malformed storage'),
        (tensor(storage('FloatStorage', 2), 0, 3, 1), 'beyond its storage'),
        (tensor(storage('FloatStorage', 2), 2, 1, 1), 'beyond its storage'),
        (tensor(storage('FloatStorage', 2), 0, 2, 2), 'beyond its storage'),
        (tensor(b'N', 0, 1, 1), 'a tensor on None'),
        (bad.name('torch._utils', '_rebuild_sparse_tensor'), '_rebuild_sparse'),
    ],
)
def test_tensor_outside_of_its_storage_is_refused(tmp_path, payload, asked):
    assert asked in refusal(tmp_path, bad.zip_file(payload + bad.STOP))


def test_legacy_storage_larger_than_the_file_is_refused(tmp_path):
    payload = tensor(storage('FloatStorage', 1 << 30, b'N'), 0, 1, 1)
    message = refusal(tmp_path, bad.legacy_file(payload + bad.STOP))
    assert 'claim 4294967296 bytes' in message


def test_hostile_name_cannot_break_the_message(tmp_path):
    payload = bad.PROTO4 + bad.dotted('os\n\x1b[2J', 'system' * 999)
    message = refusal(tmp_path, bad.zip_file(payload + bad.STOP))
    assert '\x1b' not in message
    assert len(message) < 700


def test_object_array_is_refused_by_dtype(tmp_path):
    data = io.BytesIO()
    torch.save({'a': np.array([print], object)}, data)
    assert "numpy.dtype('O8')" in refusal(tmp_path, data.getvalue())


@pytest.mark.parametrize('is_zip', [True, False])
def test_damaged_pickles_give_a_checkpoint_or_the_error(tmp_path, is_zip):
    """400 files of a few random bytes wrong: no other error, no crash."""
    path, random = tmp_path / 'a.pth', Random(0)
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    plain = {'s': np.float64(3), 'a': np.arange(3), 'h': buffer}
    data = pickle.dumps(plain, 2) if is_zip else io.BytesIO()
    if not is_zip:
        torch.save(
            {'state_dict': {'w': torch.ones(3)}, 'meta': plain},
            data,
            _use_new_zipfile_serialization=False,
        )
        data = data.getvalue()
    outcomes = Counter()
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(random.randint(1, 3)):
            broken[random.randrange(len(data))] = random.randrange(256)
        path.write_bytes(bad.zip_file(broken) if is_zip else broken)
        try:
            outcomes[type(load_checkpoint_file(path))] += 1
        except CheckpointError:
            outcomes[CheckpointError] += 1
    assert set(outcomes) <= {dict, CheckpointError}
    assert outcomes[CheckpointError] > 100
