"""What a server may send, and what of it is kept."""

import base64
import contextlib
import io
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
import torch
from helpers import id_of
from mmengine.runner import CheckpointLoader

from mmpretrain_mobileone_ext.checkpoints import download
from mmpretrain_mobileone_ext.checkpoints.download import load_from_http
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.utils.files import file_sha256

WEIGHTS = io.BytesIO()
torch.save({'w': torch.ones(5000)}, WEIGHTS)
WEIGHTS = WEIGHTS.getvalue()


class Site(ThreadingHTTPServer):
    """Answers each path as a test says, and notes what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.pages, self.asked, self.done = {}, [], Event()
        self.url = f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        with contextlib.suppress(ConnectionError):
            self.server.pages[self.path.partition('?')[0]](self)

    def log_message(self, *args):
        logging.getLogger(__name__).debug(args)

    def start(self, code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        self.wfile.flush()


def serves(body, length=True, **headers):
    def answer(handler):
        size = (
            dict(Content_Length=len(body))
            if length is True
            else dict(Content_Length=length)
            if length
            else {}
        )
        handler.start(**size, **headers)
        handler.wfile.write(body)

    return answer


def redirects(where):
    return lambda handler: handler.start(302, Location=where)


def stalls(handler):
    handler.start(Content_Length=len(WEIGHTS))
    handler.wfile.write(WEIGHTS[:1000])
    handler.wfile.flush()
    handler.server.done.wait(60)


def says_nothing(handler):
    handler.server.done.wait(60)


def drips(handler):
    handler.start(Content_Length=len(WEIGHTS))
    for byte in WEIGHTS:
        if handler.server.done.wait(0.05):
            return
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def cuts_a_chunk(handler):
    handler.protocol_version = 'HTTP/1.1'
    handler.start(Transfer_Encoding='chunked')
    handler.wfile.write(b'1000\r\n' + WEIGHTS[:100])


@pytest.fixture
def site():
    with Site() as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.done.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'kept'


def load(url, folder, **options):
    return load_from_http(url, 'cpu', str(folder), progress=False, **options)


def refused(url, folder, **options):
    """What the one line says; nothing is kept."""
    with pytest.raises(CheckpointError) as error:
        load(url, folder, **options)
    assert '\n' not in str(error.value)
    assert not folder.exists() or not list(folder.iterdir())
    return str(error.value)


def saved(value):
    buffer = io.BytesIO()
    torch.save({'w': torch.full((3,), float(value))}, buffer)
    return buffer.getvalue()


def test_two_publishers_with_one_file_name(site, folder):
    site.pages = {
        f'/{name}/model.pth': serves(saved(value)) for name, value in (('a', 1), ('b', 2))
    }
    for _ in range(2):
        for name, value in (('a', 1), ('b', 2)):
            got = load(f'{site.url}/{name}/model.pth', folder)
            assert got['w'].tolist() == [value] * 3
    assert [path for path, _ in site.asked] == ['/a/model.pth', '/b/model.pth']


def test_another_query_is_another_url(site, folder):
    values = iter((1, 2))
    site.pages['/m.pth'] = lambda handler: serves(saved(next(values)))(handler)
    assert [load(f'{site.url}/m.pth?v={v}', folder)['w'][0].item() for v in (1, 2, 1, 2)] == [
        1,
        2,
        1,
        2,
    ]


PAGE = b'\n <!DOCTYPE html><title>Sign in</title>'


@pytest.mark.parametrize(
    ('answer', 'says'),
    [
        (serves(WEIGHTS[:-100], len(WEIGHTS)), 'ended after'),
        (serves(WEIGHTS[:-100], None), 'not a readable checkpoint'),
        (serves(b''), 'ended after 0'),
        (serves(b'', None), 'ended after 0'),
        (cuts_a_chunk, 'IncompleteRead'),
        (serves(PAGE), 'sent a page'),
        (serves(b'{}', Content_Type='text/html; charset=utf-8'), 'sent a page'),
        (serves(b'<?xml version="1.0"?><Error/>'), 'sent a page'),
        (serves(b'{"error": "not found"}'), 'not a readable checkpoint'),
        (lambda handler: handler.start(503), 'HTTP 503'),
        (lambda handler: handler.wfile.write(b'no HTTP at all\r\n\r\n'), 'BadStatusLine'),
    ],
    ids=id_of,
)
def test_what_is_no_checkpoint_is_not_kept(site, folder, answer, says):
    site.pages['/m.pth'] = answer
    assert says in refused(f'{site.url}/m.pth', folder)
    site.pages['/m.pth'] = serves(WEIGHTS)
    assert load(f'{site.url}/m.pth', folder)['w'].sum() == 5000


@pytest.mark.parametrize(
    ('answer', 'says'), [(stalls, 'time-out'), (says_nothing, 'time-out'), (drips, 'stalls')]
)
def test_a_server_that_stalls_is_given_up(site, folder, answer, says):
    site.pages['/m.pth'] = answer
    assert says in refused(f'{site.url}/m.pth', folder, timeout=0.3)


@pytest.mark.parametrize('length', [True, None])
def test_more_than_is_allowed(site, folder, length):
    site.pages['/m.pth'] = serves(WEIGHTS, length)
    said = refused(f'{site.url}/m.pth', folder, limit=len(WEIGHTS) - 1)
    assert f'a download may have {len(WEIGHTS) - 1}' in said
    assert load(f'{site.url}/m.pth', folder, limit=len(WEIGHTS))


def test_a_length_that_is_too_large_is_not_even_read(site, folder):
    def boasts(handler):
        handler.start(Content_Length=1 << 50)
        handler.server.done.wait(60)

    site.pages['/m.pth'] = boasts
    said = refused(f'{site.url}/m.pth', folder)
    assert f'{1 << 50} bytes' in said
    assert f'have {4 << 30}' in said


@pytest.mark.parametrize('value', ['0', '-1', '1.5', 'much'])
def test_the_limit_of_the_environment(site, folder, monkeypatch, value):
    site.pages['/m.pth'] = serves(saved(0) + bytes(1 << 20))
    monkeypatch.setenv(download.LIMIT, value)
    assert f'{value!r} must be' in refused(f'{site.url}/m.pth', folder)
    monkeypatch.setenv(download.LIMIT, '1')
    assert 'may have 1048576' in refused(f'{site.url}/m.pth', folder)


def test_a_hash_in_the_name(site, folder, tmp_path):
    (tmp_path / 'm.pth').write_bytes(WEIGHTS)
    digest = file_sha256(tmp_path / 'm.pth')[:8]
    good, bad = f'/m-{digest}.pth', '/m-0123abcd.pth'
    site.pages = {good: serves(WEIGHTS), bad: serves(WEIGHTS)}
    assert '0123abcd' in refused(site.url + bad, folder)
    load(site.url + good, folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(WEIGHTS[:-1])  # a disk that was full
    assert load(site.url + good, folder)['w'].sum() == 5000
    assert len(site.asked) == 3
    # torch.hub keeps files by their names.
    kept.unlink()
    (folder / good[1:]).write_bytes(WEIGHTS)
    assert load(site.url + good, folder)['w'].sum() == 5000
    assert len(site.asked) == 3


def test_a_name_without_a_hash_is_no_proof(site, folder):
    folder.mkdir()
    (folder / 'm.pth').write_bytes(saved(1))
    site.pages['/m.pth'] = serves(saved(2))
    assert load(f'{site.url}/m.pth', folder)['w'][0] == 2


def test_redirects_within_the_web(site, folder):
    site.pages = {'/m.pth': redirects('/a/b'), '/a/b': serves(WEIGHTS)}
    load(f'{site.url}/m.pth', folder)
    load(f'{site.url}/m.pth', folder)
    assert [path for path, _ in site.asked] == ['/m.pth', '/a/b']


@pytest.mark.parametrize(
    'where',
    [
        'file:///etc/passwd',
        'ftp://127.0.0.1/m.pth',
        'data:,x',
        '/m.pth',
        'gopher://h/?token=secret',
    ],
)
def test_redirects_that_lead_elsewhere(site, folder, where):
    site.pages['/m.pth'] = redirects(where)
    said = refused(f'{site.url}/m.pth', folder)
    assert 'redirects' in said
    assert 'secret' not in said


def test_https_is_not_given_up_by_a_redirect():
    request = download.Request('https://h/a')
    follow = download._WebOnly().redirect_request
    with pytest.raises(CheckpointError, match='allowed: https'):
        follow(request, None, 302, 'Found', {}, 'http://h/b')
    assert follow(request, None, 302, 'Found', {}, 'https://h/b')


@pytest.mark.parametrize(
    'answer',
    [serves(WEIGHTS), serves(PAGE), serves(b'junk'), stalls, lambda handler: handler.start(404)],
    ids=id_of,
)
def test_secrets_of_a_url_stay_there(site, folder, answer):
    site.pages['/m.pth'] = answer
    url = site.url.replace('//', '//zoe:pass%40word@') + '/m.pth?key=tok#frag'
    said = ''
    try:
        load(url, folder, timeout=0.3)
    except CheckpointError as error:
        said = str(error)
    names = ' '.join(p.name for p in folder.iterdir())
    for secret in ('zoe', 'pass', 'word', 'tok', 'frag'):
        assert secret not in said + names
    path, headers = site.asked[0]
    assert path == '/m.pth?key=tok'
    token = base64.b64encode(b'zoe:pass@word').decode()
    assert headers['Authorization'] == f'Basic {token}'


def test_a_password_does_not_follow_a_redirect(site, folder):
    site.pages = {'/m.pth': redirects('/other'), '/other': serves(WEIGHTS)}
    load(site.url.replace('//', '//zoe:secret@') + '/m.pth', folder)
    (_, first), (_, second) = site.asked
    assert 'Authorization' in first
    assert 'Authorization' not in second


@pytest.mark.parametrize('path', ['/', '/..', '/a/.', '', '/?a=b.pth'])
def test_urls_that_name_no_file(site, folder, path):
    assert 'names no file' in refused(site.url + path, folder)


@pytest.mark.parametrize(
    'path', ['/..%2f..%2fx.pth', '/a\\..\\x.pth', '/' + 'long' * 200 + '.pth', '/a b;c|d.pth']
)
def test_names_stay_names(site, folder, path):
    site.pages = {path.replace(' ', '%20'): serves(WEIGHTS), path: serves(WEIGHTS)}
    load(site.url + path.replace(' ', '%20'), folder)
    (kept,) = folder.iterdir()
    assert kept.is_file()
    assert kept.name.endswith('.pth')


@pytest.mark.parametrize(
    ('url', 'says'),
    [
        ('http://[::1/m.pth', 'not a URL'),
        ('http://h:x/m.pth', 'cannot download'),
        ('http://127.0.0.1:1/m.pth', 'cannot download'),
    ],
)
def test_urls_that_cannot_be_reached(folder, url, says):
    assert says in refused(url, folder, timeout=5)


def test_a_copy_that_went_bad_is_named(site, folder):
    site.pages['/m.pth'] = serves(WEIGHTS)
    load(f'{site.url}/m.pth', folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(b'junk')
    with pytest.raises(CheckpointError, match=kept.name):
        load(f'{site.url}/m.pth', folder)


def test_through_mmengine(site, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    site.pages['/m.pth'] = serves(WEIGHTS)
    got = CheckpointLoader.load_checkpoint(f'{site.url}/m.pth')
    assert got['w'].sum() == 5000
