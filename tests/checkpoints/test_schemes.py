import logging
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import malicious_pickles as bad
import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmpretrain_mobileone_ext.checkpoints import download as schemes
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.utils.files import file_sha256


def load(name, **options):
    return CheckpointLoader.load_checkpoint(str(name), **options)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'backbone.w': torch.ones(2)}}, path)
    return path


@pytest.fixture
def server(tmp_path):
    """Serves the files of a folder, and remembers what was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            file = tmp_path / self.path.partition('?')[0].lstrip('/')
            self.send_response(200 if file.is_file() else 404)
            self.end_headers()
            if file.is_file():
                self.wfile.write(file.read_bytes())

        def log_message(self, *args):
            logging.getLogger(__name__).debug(args)

    with HTTPServer(('127.0.0.1', 0), Handler) as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{running.server_port}', asked
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'hub' / 'checkpoints'


def test_every_scheme_is_ours():
    for prefix, loader in CheckpointLoader._schemes.items():
        assert loader.__module__ == schemes.__name__, prefix


def test_local(weights):
    got = load(weights, map_location='cpu')['state_dict']
    assert torch.equal(got['backbone.w'], torch.ones(2))


@pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlpackage/', 'v1.0/m.mlmodel'])
def test_coreml(tmp_path, name):
    path = tmp_path / name
    path.mkdir(parents=True)
    text = f'{tmp_path}/{name}'
    got = load(text)
    assert got == {'state_dict': {schemes.CORE_ML_KEY: str(path)}, 'meta': {}}


@pytest.mark.parametrize('name', ['none.mlpackage', 'none.mlmodel'])
def test_coreml_missing(tmp_path, name):
    with pytest.raises(CheckpointError, match='no such Core ML file'):
        load(tmp_path / name)


def test_coreml_only_by_suffix(tmp_path):
    path = tmp_path / 'x.mlpackage.pth'
    torch.save({'w': torch.ones(1)}, path)
    assert list(load(path)) == ['w']


def test_download_once(weights, server, cache):
    url, asked = server
    for _ in range(2):
        got = load(f'{url}/a.pth?token=1')
        assert torch.equal(got['state_dict']['backbone.w'], torch.ones(2))
    assert asked == ['/a.pth?token=1']
    (file,) = cache.iterdir()
    assert file.name.endswith('-a.pth')
    assert 'token' not in file.name


def test_download_is_restricted(tmp_path, server, cache):
    marker = tmp_path / 'marker'
    evil = bad.call(bad.name('os', 'system'), bad.touch(marker)) + bad.STOP
    (tmp_path / 'evil.pth').write_bytes(bad.zip_file(evil))
    with pytest.raises(CheckpointError, match=r'os\.system'):
        load(f'{server[0]}/evil.pth')
    assert not marker.exists()


def test_hash_in_the_name(weights, server, cache):
    digest = file_sha256(weights)[:8]
    for name in (f'b-{digest}.pth', 'b-00000000.pth', 'b-20240101.pth'):
        (weights.parent / name).write_bytes(weights.read_bytes())
    assert load(f'{server[0]}/b-{digest}.pth')
    assert load(f'{server[0]}/b-20240101.pth')
    with pytest.raises(CheckpointError, match='SHA-256 begins with 00000'):
        load(f'{server[0]}/b-00000000.pth')
    names = {file.name[33:] for file in cache.iterdir()}
    assert names == {f'b-{digest}.pth', 'b-20240101.pth'}


@pytest.mark.parametrize(('tail', 'says'), [('/none.pth', '404'), ('/', 'names no file')])
def test_failed_download(server, cache, tail, says):
    with pytest.raises(CheckpointError, match=says):
        load(server[0] + tail)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize('rank', [0, 1])
def test_first_rank_downloads_and_all_meet(weights, server, cache, monkeypatch, rank):
    url, asked = server
    at_barrier = []
    monkeypatch.setattr(schemes, 'get_dist_info', lambda: (rank, 2))
    monkeypatch.setattr(schemes, 'barrier', lambda: at_barrier.append(len(asked)))
    load(f'{url}/a.pth')
    assert at_barrier == [1 - rank]
    with pytest.raises(CheckpointError):
        load(f'{url}/none.pth')
    assert len(at_barrier) == 2


@pytest.mark.parametrize(
    ('prefix', 'table'),
    [
        ('torchvision://', 'get_torchvision_models'),
        ('open-mmlab://', 'get_external_models'),
        ('openmmlab://', 'get_external_models'),
        ('mmcls://', 'get_mmcls_models'),
    ],
)
def test_names(weights, server, cache, monkeypatch, prefix, table):
    urls = {'net': f'{server[0]}/a.pth'}
    monkeypatch.setattr(schemes, table, lambda: urls)
    key = 'w' if prefix == 'mmcls://' else 'backbone.w'
    assert list(load(f'{prefix}net')['state_dict']) == [key]
    with pytest.raises(CheckpointError, match=r'no model of that name.*net'):
        load(f'{prefix}other')


def test_openmmlab_local_file(weights, monkeypatch):
    monkeypatch.setenv('MMENGINE_HOME', str(weights.parent))
    monkeypatch.setattr(schemes, 'get_external_models', lambda: {'net': 'a.pth'})
    assert 'state_dict' in load('open-mmlab://net')


def test_ceph_is_restricted(tmp_path, weights, monkeypatch):

    class Backend:
        def get(self, name):
            return (tmp_path / name.rpartition('/')[2]).read_bytes()

    monkeypatch.setattr(schemes, 'get_file_backend', lambda name, backend_args: Backend())
    assert 'state_dict' in load('s3://bucket/a.pth')
    (tmp_path / 'b.pth').write_bytes(bad.zip_file(bad.name('os', 'system') + bad.STOP))
    with pytest.raises(CheckpointError, match=r's3://bucket/b\.pth.*os\.sys'):
        load('s3://bucket/b.pth')


def test_pavi_is_refused():
    with pytest.raises(CheckpointError, match='not supported'):
        load('pavi://x')


@pytest.mark.parametrize(
    ('name', 'title'),
    [('m.mlpackage', 'Core ML'), ('m.mlmodel', 'Core ML'), ('m.aimodel', 'Core AI')],
)
def test_the_log_names_the_format(tmp_path, name, title):
    said = []
    logger = logging.getLogger('schemes')
    logger.addHandler(handler := logging.Handler())
    logger.setLevel(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    (tmp_path / name).mkdir()
    CheckpointLoader.load_checkpoint(str(tmp_path / name), logger=logger)
    assert said == [f'Loads checkpoint by {title} backend from path: {tmp_path / name}']
