"""Files and packages that appear whole or not at all, and paths that may be written.

What a process makes lies in a hidden folder beside the target, ``.<name>.<random>.partial``, until
it is complete and takes the target's name. The folder belongs to the process for as long as that
holds a lock on it. The system takes the lock back however the process ends, and the next process
with the same target removes the folder.

The lock is flock(2) on the folder itself. ``filelock`` locks a file that would lie in the folder,
and makes the folder anew that another process has just removed: with six processes at one target,
some of them killed, 1 in 100 workspaces of filelock 4.3 ended with ``FileExistsError``, and they
were 20 times as slow; of flock, none in 8 900.

What a person reads of an ``OSError`` that is not caught here is in ``utils.explain``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, Optional, Union

from ..errors import CheckpointError, ExportError, MobileOneExtError

try:
    import fcntl
except ImportError:  # Windows: abandoned folders stay
    fcntl = None  # type: ignore[assignment]


def _home(package: Path) -> Path:
    """``.mim``, or a clone's root where links are no links."""
    installed = package / '.mim'
    return installed if (installed / 'configs').is_dir() else package.parent


#: Where configs, tools, the model index and the tested versions lie.
MIM = _home(Path(__file__).resolve().parents[1])

PathLike = Union[str, os.PathLike[str]]
Error = type[MobileOneExtError]
#: Suffix of an old target in a workspace, until the new one has its name.
OLD = '.old'
_RANDOM = '[0-9a-f]' * 32
#: Suffixes of model files that are folders, to a file that is in each.
_PACKAGES = {'.mlpackage': 'Manifest.json', '.aimodel': 'main.mlirb'}
_CHUNK = 1 << 20
_AT_FDCWD = -100  # paths are relative to the working directory
_RENAME_EXCHANGE = 2  # of linux/fs.h
_RENAME_SWAP = 2  # of macOS' sys/stdio.h


def write_whole(path: Path, write: Callable[[Path], Any], error: Error = MobileOneExtError) -> Path:
    """Let ``write`` make a file, then give it the name ``path``.

    Args:
        path: target; its folder must exist.
        write: called with the path of the file to make. That has the target's name, because writers
            choose a format by it.
        error: raised where the disk refuses; an old file is then in place.

    Returns:
        ``path``.
    """
    with workspace(path, error) as folder:
        made = folder / path.name
        try:
            write(made)
            # A rename may reach the disk before the content does.
            with open(made, 'rb+') as handle:
                os.fsync(handle.fileno())
            os.replace(made, path)
        except OSError as reason:
            raise error(f'{path} cannot be written: {reason}') from reason
    return path


def write_text(path: Path, text: str, error: Error = MobileOneExtError) -> Path:
    """Write UTF-8 with the line ends of ``text``; else as :func:`write_whole`."""
    return write_whole(path, lambda made: made.write_bytes(text.encode()), error)


def write_json(
    path: Path, document: Any, error: Error = MobileOneExtError, indent: int = 2
) -> Path:
    """Write a document of what JSON has a word for, and paths."""
    return write_text(path, json.dumps(document, indent=indent, default=os.fspath) + '\n', error)


def install(
    made: Path, target: Path, force: bool, check: Optional[Callable[[Path, bool], None]] = None
) -> None:
    """Rename ``made`` to ``target``; an old target goes after that.

    A process that is killed meanwhile leaves the old or the new one whole. Where the system cannot
    swap two names at once, it may leave none; the next :func:`workspace` then gives the old one its
    name back.

    Args:
        made: complete file or package in a workspace.
        target: its name.
        force: replace an existing target.
        check: what may be replaced; :func:`check_free` when None.

    Raises:
        ExportError: the target appeared meanwhile, or the disk refuses; an old target is then in
            place.
    """
    (check or check_free)(target, force)
    try:
        _give_usual_modes(made)
        old = _swap(made, target)
    except OSError as error:
        raise ExportError(f'{target}: cannot write: {error}') from error
    if old.is_symlink() or old.is_file():
        old.unlink()
    elif old.is_dir():
        shutil.rmtree(old, ignore_errors=True)


def _give_usual_modes(made: Path) -> None:
    """What other users may read: coremltools saves private files."""
    mode = made.parent.stat().st_mode & 0o777
    for path in (made, *made.rglob('*')):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _swap(made: Path, target: Path) -> Path:
    """Give ``made`` its name; returns where an old target is now."""
    if made.is_file():
        os.replace(made, target)
        return made
    if not os.path.lexists(target):
        os.rename(made, target)
        return made
    if exchange(made, target):
        return made
    aside = made.with_name(target.name + OLD)
    try:
        os.rename(target, aside)
        os.rename(made, target)
    except BaseException:
        _take_back(aside, target)
        raise
    return aside


def _take_back(aside: Path, target: Path) -> None:
    """Give an old target its name back, if nothing else has it."""
    if os.path.lexists(aside) and not os.path.lexists(target):
        os.rename(aside, target)


def exchange(one: Path, other: Path) -> bool:
    """Give each of two things the name of the other, in one step.

    Whoever looks, or is killed, sees both under the one or under the other name. Both are on the
    same disk, each a file, a link or a folder.

    Returns:
        False where system or disk cannot; nothing has changed then.
    """
    call = _call()
    return call is not None and call(os.fsencode(one), os.fsencode(other)) == 0


@functools.cache
def _call() -> Optional[Callable[[bytes, bytes], int]]:
    """renameat2(2) of Linux or renamex_np(2) of macOS, as a swap."""
    names = {'linux': 'renameat2', 'darwin': 'renamex_np'}
    if sys.platform not in names:
        return None
    function = getattr(ctypes.CDLL(None), names[sys.platform], None)
    if function is None:  # a C library without it
        return None
    integer, text, flags = ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    if sys.platform == 'darwin':
        function.argtypes = [text, text, flags]
        return lambda a, b: function(a, b, _RENAME_SWAP)
    function.argtypes = [integer, text, integer, text, flags]
    return lambda a, b: function(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)


@contextlib.contextmanager
def workspace(target: Path, error: Error = MobileOneExtError) -> Iterator[Path]:
    """A hidden folder beside ``target``, removed however the block ends.

    Beside it, because a rename is atomic on one disk only. Folders that killed processes left for
    the same target are removed first.

    Args:
        target: what is made in the folder; its own folder must exist.
        error: raised where the disk refuses the folder.
    """
    try:
        _clear_abandoned(target)
        folder, lock = _claimed_folder(target)
    except OSError as reason:
        raise error(f'{target} cannot be written: {reason}') from reason
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(lock)


def _claimed_folder(target: Path) -> tuple[Path, Optional[int]]:
    """A new folder and the lock that makes it ours."""
    while True:
        folder = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.partial')
        folder.mkdir()
        try:
            lock = _claim(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for abandoned
        if folder.is_dir():
            return folder, lock
        _release(lock)


def _clear_abandoned(target: Path) -> None:
    """Remove folders of processes that are gone."""
    for folder in target.parent.glob(f'.{glob.escape(target.name)}.{_RANDOM}.partial'):
        try:
            lock = _claim(folder)
        except OSError:
            continue  # its process lives, or another one removes it
        if lock is not None:
            _take_back(folder / (target.name + OLD), target)
            shutil.rmtree(folder, ignore_errors=True)
            _release(lock)


def _claim(folder: Path) -> Optional[int]:
    """Lock a folder until the descriptor is closed or the process ends.

    Returns:
        None where the system or the disk (NFS) has no such locks.

    Raises:
        BlockingIOError: another one has it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _release(lock: Optional[int]) -> None:
    if lock is not None:
        os.close(lock)


def check_apart(
    outputs: Mapping[str, Optional[PathLike]],
    inputs: Mapping[str, Any],
    error: Error = MobileOneExtError,
    package: str = '',
    shared: Collection[str] = (),
) -> None:
    """Refuse paths that do not stay apart, before any work is done.

    Args:
        outputs: option to what is written there; None is left out.
        inputs: option to what is read; anything but a path is left out.
        error: to raise.
        package: the output that may be a ``.mlpackage`` or ``.aimodel``. All others stay out of
            packages: those hold what was verified, and nothing else.
        shared: outputs that are folders to which files are added; other things may lie in them.

    Raises:
        MobileOneExtError: two outputs are the same or one lies in the other, an output is an input
            or holds it, or lies in a package.
    """
    given = {name: _real(path) for name, path in outputs.items() if path is not None}
    read = {n: _real(p) for n, p in inputs.items() if isinstance(p, (str, os.PathLike))}
    for (one, a), (other, b) in permutations(given.items(), 2):
        if a == b or (a in b.parents and one not in shared):
            raise error(f'{one} is {a} and {other} is {b}; neither may be the other or lie in it')
    for name, path in given.items():
        around = path.parents if name == package else (path, *path.parents)
        for folder in (f for f in around if f.suffix in _PACKAGES):
            raise error(
                f'{name} is {path}, but {folder.name} is a model package; nothing else is written '
                'into one'
            )
        for source, taken in read.items():
            holds = path in taken.parents and name not in shared
            # What does not exist is a name, not a file, or is refused when read.
            if (path == taken or holds) and os.path.lexists(taken):
                raise error(
                    f'{name} is {path} and {source} is {taken}; an output '
                    'may neither replace nor hold what is read'
                )


def _real(path: PathLike) -> Path:
    try:
        return Path(os.path.normcase(os.path.realpath(Path(path).expanduser())))
    # A NUL, or no such user: whoever opens it says so.
    except (OSError, RuntimeError, ValueError):
        return Path(path)


def check_writable(path: Optional[Path]) -> None:
    """Refuse a file that could not be written later; None is no file.

    Raises:
        MobileOneExtError: it is a folder, or its folder is missing or read-only.
    """
    if path is None:
        return
    if path.is_dir():
        raise MobileOneExtError(f'{path} is a folder, not a file to write')
    _try_to_write(path.absolute().parent, path)


def check_folder(path: Optional[Path]) -> None:
    """Refuse a folder, made later if missing, that would take no file.

    Raises:
        MobileOneExtError: it, or what it would be made in, is a file or read-only.
    """
    if path is None:
        return
    whole = path.absolute()
    _try_to_write(next(p for p in (whole, *whole.parents) if p.exists()), path)


def _try_to_write(folder: Path, given: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MobileOneExtError(f'{given} cannot be written: {error.strerror}') from error


def check_free(path: Path, force: bool) -> None:
    """Refuse a target that exists, or with ``force`` one of another kind.

    Raises:
        ExportError: the target may not be (over)written.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise ExportError(f'{path} exists; give --force (in Python force=True) to replace it')
    inside = _PACKAGES.get(path.suffix, '')
    fits = path.is_file() if not inside else (path.is_dir() and (path / inside).is_file())
    if not fits and not path.is_symlink():
        raise ExportError(
            f'{path} exists and is no {path.suffix}; it is not replaced even with --force'
        )


def free_target(out: PathLike, source: PathLike, force: bool) -> Path:
    """Where to write what is made from ``source``, ``~`` expanded.

    Raises:
        CheckpointError: it is the source itself, or exists without ``force``.
    """
    target = Path(out).expanduser()
    if target.resolve() == Path(source).expanduser().resolve():
        raise CheckpointError(
            f'{target}: the result would replace the training checkpoint or weights it is made from'
        )
    if target.exists() and not force:
        raise CheckpointError(f'{target} exists already; give --force to replace it')
    return target


def existing_file(path: PathLike) -> Path:
    """The path of a non-empty file, ``~`` expanded.

    Raises:
        CheckpointError: it is missing, empty or no file.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise CheckpointError(f'{file}: no such checkpoint file')
    if not file.is_file():
        raise CheckpointError(
            f'{file}: a checkpoint must be a file, but this is a directory or a device'
        )
    if file.stat().st_size == 0:
        raise CheckpointError(f'{file}: the checkpoint file is empty')
    return file


def file_sha256(path: PathLike) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits.

    Raises:
        CheckpointError: the file is missing, empty or no file.
    """
    digest = hashlib.sha256()
    with open(existing_file(path), 'rb') as handle:
        for chunk in iter(lambda: handle.read(_CHUNK), b''):
            digest.update(chunk)
    return digest.hexdigest()


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob('*')
    return sum(f.stat().st_size for f in files if f.is_file())
