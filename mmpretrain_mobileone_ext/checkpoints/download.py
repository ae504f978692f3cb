"""Checkpoints by name or URL, for mmengine and for this package.

Importing this module replaces every loader in mmengine's CheckpointLoader, so ``load_from``,
``--resume``, ``init_cfg`` and ``get_model`` read all files, local or downloaded, as untrusted data.
Names of Core ML files are new.

A copy is kept for each URL, not for each file name: two publishers may call their files the same.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPException, responses
from pathlib import Path
from typing import Any, Optional, TypeVar, Union
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from ..errors import CheckpointError, MobileOneExtError
from ..models.loading.program import CORE_ML_KEY, ProgramMetadata
from ..utils.files import file_sha256, write_whole
from ..utils.text import Steps, one_line
from .load import checked_checkpoint, load_checkpoint_file
from .safe_pickle import restricted_load

#: Environment variable: MiB that a download may have.
LIMIT = 'MOBILEONE_EXT_MAX_DOWNLOAD_MB'
_LIMIT_MIB = 4096
#: Seconds of silence after which a server is given up.
TIMEOUT = 30.0
#: Bytes a second; a server that sends less says nothing that matters.
_SLOWEST = 1024
_CHUNK = 1 << 18
_MIB = 1 << 20
_HASH = re.compile(r'-([a-f0-9]{8,64})\.')
_DATE = re.compile(r'20\d{6}')
_PAGE = re.compile(rb'\s*<(!doctype|html|head|body|\?xml)', re.IGNORECASE)

Read = TypeVar('Read')


def load_url(
    url: str,
    folder: Path,
    read: Callable[[Path, str], Read],
    *,
    show: bool = False,
    timeout: float = TIMEOUT,
    limit: Optional[int] = None,
) -> Read:
    """Read what a URL holds: from its copy, or download it and keep one.

    What ends too early, is a page, has another hash than its name says or cannot be read is not
    kept.

    Args:
        url: http or https. A name that ends in ``-<8 or more hexadecimal digits>.<suffix>``, as
            published files' names do, must match the SHA-256 of the file. User name and password
            are sent to this host alone.
        folder: of the copies; made if it is missing.
        read: reads a file, and is told what messages call it; what it returns is returned.
        show: a progress bar on stderr.
        timeout: seconds without an answer after which it is given up.
        limit: bytes allowed; None for 4 GiB, or the MiB that the environment variable
            ``MOBILEONE_EXT_MAX_DOWNLOAD_MB`` allows.

    Raises:
        CheckpointError: it cannot be downloaded or is none of this.
        Exception: what ``read`` raises.
    """
    copy = _copy(url, folder)
    if copy is not None:
        return read(copy, f'{shown(url)} (kept in {copy})')
    allowed = _allowed() if limit is None else limit
    found = []

    def write(made: Path) -> None:
        _download(url, made, allowed, timeout, show)
        found.append(read(made, shown(url)))

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f'{folder}: downloads cannot be kept there: {error}') from error
    write_whole(folder / _kept_name(url), write, CheckpointError)
    return found[0]


def shown(url: str) -> str:
    """A URL for a message: without user, password, query and fragment.

    A path is left as it is.
    """
    if '://' not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return 'the URL'
    host = parts.netloc.rpartition('@')[2]
    return f'{parts.scheme}://{host}{parts.path}' + ('?...' if parts.query else '')


def file_name(url: str) -> str:
    """The name of the file that a URL leads to, from its path alone.

    Raises:
        CheckpointError: the URL names no file, or is none.
    """
    try:
        name = urlsplit(url).path.rpartition('/')[2]
    except ValueError as error:
        raise CheckpointError(f'not a URL that can be read: {error}') from error
    safe = re.sub(r'[^A-Za-z0-9._-]', '_', name)[-120:]
    if not safe.strip('.'):
        raise CheckpointError(f'{shown(url)}: the URL names no file')
    return safe


def _kept_name(url: str) -> str:
    digest = hashlib.sha256(url.partition('#')[0].encode()).hexdigest()
    return f'{digest[:32]}-{file_name(url)}'


def _copy(url: str, folder: Path) -> Optional[Path]:
    """The file that holds what the URL does, if there is one."""
    kept, wanted = folder / _kept_name(url), _hash_in(file_name(url))
    if wanted is None:
        return kept if kept.is_file() else None
    # Other programs keep files by their own name; the hash proves them.
    for file in (kept, folder / file_name(url)):
        if file.is_file() and file.stat().st_size and file_sha256(file).startswith(wanted):
            return file
    return None


def _hash_in(name: str) -> Optional[str]:
    found = _HASH.search(name)
    # A date in the same place is eight such digits too.
    return found.group(1) if found and not _DATE.fullmatch(found.group(1)) else None


def _allowed() -> int:
    given = os.environ.get(LIMIT) or str(_LIMIT_MIB)
    if not given.isdecimal() or int(given) < 1:
        raise CheckpointError(f'{LIMIT}={given!r} must be a whole number of MiB, 1 or more')
    return int(given) * _MIB


def _download(url: str, made: Path, limit: int, timeout: float, show: bool) -> None:
    name, digest, size = file_name(url), hashlib.sha256(), 0
    where = shown(url)
    with _opened(url, timeout) as response, open(made, 'xb') as file, ExitStack() as stack:
        declared = response.length
        _check_size(where, declared or 0, limit)
        total = None if declared is None else -(-declared // _MIB)
        advance = stack.enter_context(Steps(show).step(f'download {name} (MiB)', total))
        for chunk in _chunks(where, response, timeout):
            if not size:
                _refuse_page(where, response, chunk)
            before, size = size, size + len(chunk)
            _check_size(where, size, limit)
            digest.update(chunk)
            file.write(chunk)
            advance(size // _MIB - before // _MIB)
    if declared not in (None, size) or not size:
        raise CheckpointError(
            f'{where}: the download ended after {size} of {declared or "unknown"} bytes'
        )
    wanted = _hash_in(name)
    if wanted and not digest.hexdigest().startswith(wanted):
        raise CheckpointError(
            f'{where}: the name says that the SHA-256 begins with {wanted}, '
            f'but it is {digest.hexdigest()}: another or a damaged file'
        )


def _check_size(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise CheckpointError(
            f'{where}: {size} bytes or more, but a download may have {limit}; '
            f'set {LIMIT} to allow more MiB'
        )


def _refuse_page(where: str, response: Any, start: bytes) -> None:
    kind = response.headers.get_content_type()
    if kind in ('text/html', 'application/xhtml+xml') or _PAGE.match(start):
        raise CheckpointError(
            f'{where}: the server sent a page, not a checkpoint; look at the URL in a browser'
        )


def _chunks(where: str, response: Any, timeout: float) -> Iterator[bytes]:
    """What arrives, as long as it does not arrive by drops."""
    start, count = time.monotonic(), 0
    while True:
        with _explained(where):
            # Returns what there is; ``read`` would wait for all of it.
            chunk = response.read1(_CHUNK)
        if not chunk:
            return
        yield chunk
        count += len(chunk)
        passed = time.monotonic() - start
        if passed <= timeout:
            continue
        if count < _SLOWEST * timeout:
            raise CheckpointError(f'{where}: the server stalls: {count} bytes in {passed:.0f} s')
        start, count = time.monotonic(), 0


def _opened(url: str, timeout: float) -> Any:
    """The answer to a GET request of ``url``."""
    where = shown(url)
    with _explained(where):
        parts = urlsplit(url)
        host = parts.netloc.rpartition('@')[2]
        request = Request(parts._replace(netloc=host, fragment='').geturl())
        if parts.username is not None:
            pair = f'{unquote(parts.username)}:{unquote(parts.password or "")}'
            token = base64.b64encode(pair.encode()).decode()
            # Not passed on to where the host redirects.
            request.add_unredirected_header('Authorization', f'Basic {token}')
        return build_opener(_WebOnly).open(request, timeout=timeout)


class _WebOnly(HTTPRedirectHandler):
    """Follows redirects to http and https, never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        allowed = ('https',) if req.type == 'https' else ('http', 'https')
        if urlsplit(newurl).scheme not in allowed:
            raise CheckpointError(
                f'{shown(req.full_url)}: redirects to {shown(newurl)[:200]}; '
                f'allowed: {" and ".join(allowed)}'
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what a network raises into one line that names the URL."""
    try:
        yield
    except MobileOneExtError:
        raise
    # URLError and time-outs are OSErrors.
    except (OSError, HTTPException, ValueError) as error:
        raise CheckpointError(
            f'{where}: cannot download the checkpoint: {_reason(error)}'
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        if 300 <= error.code < 400:
            return f'HTTP {error.code}: redirects too often, or to what is neither http nor https'
        return f'HTTP {error.code} {responses.get(error.code, "")}'.strip()
    if isinstance(error, TimeoutError):
        return 'the server does not answer (time-out)'
    return one_line(error)


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: Union[str, Path], map_location: Any = None) -> dict:
    """Load a local checkpoint; see :func:`load_checkpoint_file`."""
    return load_checkpoint_file(filename, map_location)


def program_loader(title: str) -> Callable[..., dict]:
    """Make the loader of a phone's files, which are no state dicts.

    Args:
        title (str): What their format is called, such as 'Core ML'.

    Returns:
        callable: Takes the path of a ``.mlpackage`` or ``.aimodel`` folder, or of an ``.mlmodel``
        file, and ``map_location``, which is ignored. It reads nothing, and returns a dict:
        ``state_dict`` with the path as a str under ``CORE_ML_KEY``, a ``_metadata`` that makes
        other models refuse it, and an empty ``meta``. It raises ``CheckpointError`` if there is no
        such file.
    """

    def load(filename: Union[str, Path], map_location: Any = None) -> dict:
        path = Path(filename).expanduser()
        if not path.exists():
            raise CheckpointError(f'{path}: no such {title} file')
        state = OrderedDict({CORE_ML_KEY: str(path)})
        state._metadata = ProgramMetadata(str(path))  # type: ignore[attr-defined]
        return {'state_dict': state, 'meta': {}}

    # mmengine logs a loader by its name, from the eleventh letter on.
    load.__name__ = f'load_from_{title}'
    return load


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(
    filename: str,
    map_location: Any = None,
    model_dir: Optional[str] = None,
    progress: Optional[bool] = None,
    timeout: float = TIMEOUT,
    limit: Optional[int] = None,
) -> dict:
    """Download a checkpoint once, then load it like a local file.

    Args:
        filename (str): URL; see :func:`load_url`.
        map_location: As of torch.load.
        model_dir (str, optional): Folder for downloads. Defaults to ``checkpoints`` in torch.hub's
            folder.
        progress (bool, optional): Show a progress bar. Defaults to whether stderr is a terminal.
        timeout (float): Seconds without an answer after which it is given up.
        limit (int, optional): Bytes allowed. Defaults to what ``MOBILEONE_EXT_MAX_DOWNLOAD_MB``
            allows, or 4 GiB.

    Returns:
        dict: The checkpoint.

    Raises:
        CheckpointError: If it cannot be downloaded or loaded; nothing is kept then.
    """
    load = partial(
        load_url,
        filename,
        Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')),
        lambda file, name: load_checkpoint_file(file, map_location, name),
        show=sys.stderr.isatty() if progress is None else progress,
        timeout=timeout,
        limit=limit,
    )
    rank, world_size = get_dist_info()
    if world_size == 1:
        return load()
    try:
        loaded = load() if rank == 0 else None
    finally:
        # The others must not wait forever for a download that failed.
        barrier()
    return load() if loaded is None else loaded


@CheckpointLoader.register_scheme(prefixes=('modelzoo://', 'torchvision://'), force=True)
def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    """Load torchvision's weights by model name, from their URL."""
    urls = get_torchvision_models()
    return load_from_http(_named(filename, urls), map_location)


@CheckpointLoader.register_scheme(prefixes=('open-mmlab://', 'openmmlab://'), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Load OpenMMLab's weights by name, from their URL or local file."""
    scheme, _, name = filename.partition('://')
    name = get_deprecated_model_names().get(name, name)
    target = _named(f'{scheme}://{name}', get_external_models())
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    default = os.path.join(os.getenv('XDG_CACHE_HOME', '~/.cache'), 'mmengine')
    home = Path(os.getenv('MMENGINE_HOME', default)).expanduser()
    return load_checkpoint_file(home / target, map_location)


@CheckpointLoader.register_scheme(prefixes='mmcls://', force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """Load the backbone of MMClassification's weights, by model name."""
    checkpoint = load_from_http(_named(filename, get_mmcls_models()), map_location)
    state, prefix = checkpoint.get('state_dict', checkpoint), 'backbone.'
    own = ((key[len(prefix) :], v) for key, v in state.items() if key.startswith(prefix))
    return {'state_dict': OrderedDict(own)}


def _named(filename: str, urls: dict) -> str:
    name = filename.partition('://')[2]
    if name not in urls:
        raise CheckpointError(
            f'{filename}: no model of that name; there are {len(urls)}, such as {sorted(urls)[:3]}'
        )
    return urls[name]


@CheckpointLoader.register_scheme(prefixes=(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_ceph(filename: str, map_location: Any = None, backend: str = 'petrel') -> dict:
    """Load a checkpoint through mmengine's petrel file backend.

    Raises:
        CheckpointError: If it is no checkpoint or asks to run anything.
    """
    client = get_file_backend(filename, backend_args={'backend': backend})
    try:
        loaded = restricted_load(io.BytesIO(client.get(filename)), map_location)
        return checked_checkpoint(loaded)
    except CheckpointError as error:
        raise CheckpointError(f'{filename}: {error}') from None


@CheckpointLoader.register_scheme(prefixes='pavi://', force=True)
def load_from_pavi(filename: str, map_location: Any = None) -> dict:
    """Refuse: pavi has no client that could be checked.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(
        f'{filename}: pavi:// is not supported; download the file and load it from its path'
    )
