"""Compiled libraries on disk, of which nothing is loaded that is in doubt.

A library that was cut short kills the process that uses it, and one that somebody else wrote runs
as this user. So a file's name holds the SHA-256 of its content, folder and file must belong to this
user (or root) and be writable by nobody else, and what is loaded are the bytes that were checked,
not the file: that one could still be replaced or cut under a running process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ....errors import KernelError

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_FOLDER = 'mmpretrain_mobileone_ext'
_PARTIAL = '.partial'
_MAX_BYTES = 64 << 20
_POLL_S = 0.05
_OPEN = getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_CLOEXEC', 0)


class LibraryCache:
    """A private folder of libraries, held open and locked.

    Everything is done relative to the open folder, so that renaming one of its parents leads
    nowhere else.
    """

    def __init__(self, folder: int):
        self._folder = folder

    @classmethod
    @contextlib.contextmanager
    def locked(cls, deadline: float) -> Iterator[LibraryCache]:
        """This user's cache, for one process at a time.

        Args:
            deadline: of ``time.monotonic``, for the wait for another one.

        Raises:
            KernelError: another process holds it for that long.
            OSError: there is no folder that only this user can write.
        """
        if fcntl is None:
            raise OSError('only POSIX systems say whose a file is')
        with contextlib.ExitStack() as opened:
            folder = _open_private(_place())
            opened.callback(os.close, folder)
            # On a read-only disk there is nothing to make, hence to lock.
            with contextlib.suppress(OSError):
                lock = os.open('lock', os.O_RDWR | os.O_CREAT | _OPEN, 0o600, dir_fd=folder)
                opened.callback(os.close, lock)
                _wait_for(lock, deadline)
            yield cls(folder)

    def find(self, key: str) -> Optional[bytes]:
        """The whole library made for ``key``; what is damaged goes away."""
        for name in sorted(os.listdir(self._folder)):
            if not name.startswith(f'{key}-') or name.endswith(_PARTIAL):
                continue
            data = self._read(name)
            if data is not None and name == _name(key, data):
                return data
            self._remove(name)
        return None

    def _read(self, name: str) -> Optional[bytes]:
        """None for what is not a private file of a reasonable size."""
        try:
            # A named pipe would wait for its other end.
            file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=self._folder)
        except OSError:
            return None
        with open(file, 'rb') as handle:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or _doubt(status):
                return None
            try:
                data = handle.read(_MAX_BYTES + 1)
            except OSError:
                return None
        return data if len(data) <= _MAX_BYTES else None

    def _remove(self, name: str) -> None:
        # What cannot be removed is not loaded either.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)

    def keep(self, key: str, data: bytes) -> None:
        """Store a library, whole or not at all.

        Raises:
            OSError: the disk refuses.
        """
        self._sweep()
        made = f'{key}-{uuid.uuid4().hex}{_PARTIAL}'
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
        try:
            file = os.open(made, flags, 0o600, dir_fd=self._folder)
            with open(file, 'wb') as handle:
                handle.write(data)
                handle.flush()
                os.fsync(file)
            os.rename(made, _name(key, data), src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError:
            self._remove(made)
            raise

    def _sweep(self) -> None:
        """What a killed process left: this one holds the lock."""
        for name in os.listdir(self._folder):
            if name.endswith(_PARTIAL):
                self._remove(name)


def load(data: bytes) -> ctypes.CDLL:
    """Load exactly these bytes.

    Raises:
        OSError: they are no library of this machine, or no place is left from which one may be
            loaded.
    """
    if hasattr(os, 'memfd_create'):
        # No disk that is full, read-only or forbids to execute.
        with contextlib.suppress(OSError):
            return _load_from_memory(data)
    with tempfile.TemporaryDirectory(prefix='mobileone-') as folder:
        copy = Path(folder) / 'kernels.so'
        copy.write_bytes(data)
        return ctypes.CDLL(str(copy))


def _load_from_memory(data: bytes) -> ctypes.CDLL:
    file = os.memfd_create('mobileone-kernels')
    try:
        with open(file, 'wb', closefd=False) as handle:
            handle.write(data)
        # Another number each time would be another name: the loader takes an open library of the
        # same name for the same one, so the file stays open for as long as the process lives.
        return ctypes.CDLL(f'/proc/self/fd/{file}')
    except OSError:
        os.close(file)
        raise


def _name(key: str, data: bytes) -> str:
    return f'{key}-{hashlib.sha256(data).hexdigest()}.so'


def _place() -> Path:
    """``$XDG_CACHE_HOME``, which must be absolute to count, or ~/.cache."""
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not base.is_absolute():
        try:
            base = Path.home() / '.cache'
        except RuntimeError:
            raise OSError('this user has no home directory') from None
    if not base.is_absolute():
        raise OSError(f'the home directory {str(base.parent)!r} is not an absolute path')
    return base / _FOLDER


def _open_private(path: Path) -> int:
    """Open a folder that only this user can write, made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    doubt = _doubt(os.fstat(folder))
    if doubt:
        os.close(folder)
        raise OSError(f'{path} {doubt}')
    return folder


def _doubt(status: os.stat_result) -> str:
    """Who else may have written a file or folder, '' if nobody."""
    if status.st_uid not in (os.geteuid(), 0):
        return f'belongs to the user with id {status.st_uid}'
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f'can be written by others (mode {stat.S_IMODE(status.st_mode):o})'
    return ''


def _wait_for(lock: int, deadline: float) -> None:
    """Lock a file; closing it, or the end of the process, unlocks it."""
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise  # a disk without locks
        if time.monotonic() > deadline:
            raise KernelError('another process holds the cache of compiled kernels for too long')
        time.sleep(_POLL_S)
