"""Say in one line what a wrong argument, file, disk or machine has caused.

Libraries answer those with exceptions of every type. ``explain`` tells them from faults of the code
by type and text, and names the file that was read or written and the argument it came from, where
the exception knows. None means that nothing outside is known to cause it: the traceback is then
needed.
"""

from __future__ import annotations

import errno
import inspect
import json
import os
import pickle
import re
import sys
import traceback
import zipfile
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Optional

import yaml

from ..errors import SpecError
from .doctor.failed_import import import_advice, known_trap
from .text import did_you_mean, one_line

_SHOWN = 600
_CONFIG_TYPES = ('.py', '.yaml', '.yml', '.json')
_READERS = ('fromfile', '_file2dict', '_parse_lazy_import')
#: How OpenMMLab's code answers a wrong key, file or option, and others a file that is damaged.
_ANSWERS = (
    AssertionError,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    yaml.YAMLError,
    json.JSONDecodeError,
    UnicodeError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
#: What an error of the operating system means, by its number.
_SYSTEM = {
    errno.ENOENT: 'there is no such file or folder',
    errno.EEXIST: 'it exists already, and is no folder',
    errno.ENOTDIR: 'a part of this path is a file, not a folder',
    errno.EISDIR: 'this is a folder, and a file is needed',
    errno.EACCES: 'this user may not read or write there',
    errno.EPERM: 'this user may not read or write there',
    errno.EPIPE: 'whoever read the output has stopped',
    errno.EROFS: 'the disk is read-only',
    errno.ENOSPC: 'the disk is full; what was being written is incomplete',
    errno.EDQUOT: 'the quota of the disk is used up; what was being written is incomplete',
}
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|"
    'Unable to allocate|Cannot allocate memory',
    re.I,
)
_LABEL = (
    "a label of the data set is not among the classes of the model's "
    'head; compare the number of class folders, or of classes in the '
    'annotations, with model.head.num_classes'
)
#: Pattern of the text of an error of any type, and what it means.
_TEXTS = {
    r'Target -?\d+ is out of bounds|Class values must be |'
    r'index -?\d+ is out of bounds for dimension': _LABEL,
    r'Found \d+ files in subfolders|No valid data|num_samples=0|'
    r'need at least one array to concatenate': 'the data set is empty',
    r'PytorchStreamWriter failed|unexpected pos \d+ vs \d+|'
    r'inline_container': 'a checkpoint could not be written whole; is the disk full?',
    r'DataLoader worker .*(exited|killed)|out of shared memory': 'a data loader worker was ended, '
    'as where memory or /dev/shm is short; try fewer num_workers',
    r"'(Config|ConfigDict)' object has no attribute": 'the config lacks a setting; '
    'was another config meant?',
    r'size mismatch|shapes cannot be multiplied|Sizes of tensors must match|'
    r'Given groups=|must match the size|each element in list of batch|'
    r'stack expects each tensor|Expected more than 1 value per channel|'
    r"Kernel size can't be greater|[Oo]utput size is too small": 'sizes of the network or of the '
    'data do not fit together',
    r'CUDA error|NVIDIA driver|not compiled with CUDA|'
    r'No CUDA GPUs|NCCL': 'the GPU cannot be used as asked',
    r'Caught \w+ in DataLoader worker': 'a sample cannot be read',
    r'home directory': 'this user has no home directory; set HOME',
}
_DEMO_HINT = '; mobileone-ext demo makes the scans of digits'
#: What functions that write call the file.
_FILE_NAMES = ('filename', 'filepath', 'path', 'target', 'made', 'f')
_WORKER = re.compile(r'Caught \w+ in DataLoader worker process \d+')


class Explanation(NamedTuple):
    """One line, and how surely it is no fault of the code."""

    line: str
    is_certain: bool


def explain(error: BaseException) -> Optional[Explanation]:
    """What outside the code may have caused ``error``; None: nothing."""
    if not isinstance(error, Exception):
        return None
    for tell in (*_CERTAIN, *_LIKELY):
        line = tell(error)
        if line:
            return Explanation(line, tell in _CERTAIN)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, did not suffice."""
    # torch.OutOfMemoryError is torch.cuda's in older versions.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {'MemoryError', 'OutOfMemoryError'}) or (
        isinstance(error, (RuntimeError, OSError)) and bool(_MEMORY.search(str(error)))
    )


def where(error: BaseException) -> str:
    """File and line that raised, '' where unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    return f'{Path(frames[-1].filename).name}:{frames[-1].lineno}' if frames else ''


def _install(error: Exception) -> Optional[str]:
    return known_trap(error) if isinstance(error, ImportError) else None


def _config(error: Exception) -> Optional[str]:
    """Whatever happens while a config is read is about that config."""
    path = _config_being_read(error)
    if path is None:
        return None
    given = f'{path}{_argument(path)}'
    if Path(path).is_dir():
        return f'{given} is a folder, and a config is a file'
    base = _missing_base(error)
    if base:
        return f'{base[0]}: its _base_ {base[1]!r} does not exist'
    if isinstance(error, FileNotFoundError) and not Path(path).is_file():
        return f'{given}: there is no such config'
    if Path(path).is_file() and _is_checkpoint(path):
        return _swapped(given)
    if Path(path).suffix not in _CONFIG_TYPES:
        return f'{given} is no config; allowed: {", ".join(_CONFIG_TYPES)}'
    return f'{given} is not a readable config ({_named(error)})'


def check_not_swapped(config: object) -> None:
    """Refuse a checkpoint in the place of a config, before anything else is looked at.

    Raises:
        SpecError: ``config`` is the path of one.
    """
    if isinstance(config, (str, Path)) and Path(config).is_file() and _is_checkpoint(str(config)):
        raise SpecError(_swapped(str(config)))


def _swapped(given: str) -> str:
    return (
        f'{given} is a checkpoint, but a config is needed there '
        f'({", ".join(_CONFIG_TYPES)}); are the two swapped?'
    )


def _config_being_read(error: Exception) -> Optional[str]:
    """The file in the arguments of mmengine's reader, the innermost one."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if _is_reader(frame):
            found = frame.f_locals.get('filename', found)
    return None if found is None else str(found)


def _missing_base(error: Exception) -> Optional[tuple[str, str]]:
    """A config and what it inherits from, where that cannot be found."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        local = frame.f_locals
        if _is_reader(frame) and 'base_cfg_path' in local:
            found = str(local['filename']), str(local['base_cfg_path'])
    is_missing = isinstance(error, FileNotFoundError) and found and not Path(found[1]).is_file()
    return found if is_missing else None


def _is_reader(frame: FrameType) -> bool:
    return (
        frame.f_code.co_name in _READERS
        and frame.f_globals.get('__name__') == 'mmengine.config.config'
    )


def _is_checkpoint(path: str) -> bool:
    """A zip, a pickle or a safetensors file, by its first bytes."""
    try:
        with open(path, 'rb') as handle:
            start = handle.read(9)
    except OSError:
        return False
    return start.startswith((b'PK', b'\x80')) or start[8:] == b'{'


def _import(error: Exception) -> Optional[str]:
    if not isinstance(error, ImportError):
        return None
    if (error.name or '').startswith(f'{__name__.split(".")[0]}.'):
        return None
    if 'petrel_client' in str(error):
        urls = dict.fromkeys(re.findall(r'\b[\w+]+://[^\s,\]]+', ' '.join(sys.argv)))
        return (
            f'{", ".join(urls) or "a URL of another kind than http"}: reading it needs '
            'petrel_client, which is not installed; download the files and give their paths'
        )
    return import_advice(error)


def _memory(error: Exception) -> Optional[str]:
    if is_out_of_memory(error):
        return f'there is not enough memory; try a smaller batch, image or file ({_named(error)})'
    return None


def _depth(error: Exception) -> Optional[str]:
    if isinstance(error, RecursionError):
        return f'something that was given is nested too deep ({_named(error)})'
    return None


def _pair(error: Exception) -> Optional[str]:
    """A word of ``--cfg-options`` that mmengine cannot split."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        word = frame.f_locals.get('kv')
        if frame.f_globals.get('__name__') == 'mmengine.config.config' and isinstance(word, str):
            return None if '=' in word else f'--cfg-options: {word!r} must be KEY=VALUE'
    return None


def _keyword(error: Exception) -> Optional[str]:
    """An argument that a config gives and its class does not take."""
    given = re.search(r"unexpected keyword argument '(.*?)'", str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    kind = frames[-1].f_locals.get('obj_cls') if frames and isinstance(error, TypeError) else None
    if given is None or not inspect.isclass(kind):
        return None
    known = [name for name in inspect.signature(kind).parameters if name != given[1]]
    nearest = did_you_mean(given[1], known) or f'; it takes {", ".join(known)}'
    return f'{kind.__name__} takes no argument {given[1]!r}{nearest}'


def _head(error: Exception) -> Optional[str]:
    """A classifier whose linear layer gets another number of channels than its config says."""
    sizes = re.search(r'shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)', str(error))
    frames = traceback.walk_tb(error.__traceback__)
    if sizes is None or not any('.heads.' in f.f_globals.get('__name__', '') for f, _ in frames):
        return None
    return (
        f'sizes of the network do not fit together: the head is made for {sizes[2]} channels and '
        f'gets {sizes[1]}; set model.head.in_channels={sizes[1]} ({_named(error)})'
    )


def _image(error: Exception) -> Optional[str]:
    """What PIL and OpenCV say of a file that is no image."""
    module = type(error).__module__.partition('.')[0]
    text = _last(error)
    if module in ('PIL', 'cv2') or re.search(
        'failed to load image|cannot identify image|image file is tr|cv2.error', text
    ):
        return f'an image cannot be read ({text})'
    return None


def _system(error: Exception) -> Optional[str]:
    if not isinstance(error, OSError):
        return None
    meaning = _SYSTEM.get(error.errno or 0)
    path = error.filename if error.filename2 is None else error.filename2
    if path is None:
        said = f'{meaning} ({_last(error)})' if meaning else _last(error)
        return f'{_file_in_use(error)}{said}'
    path = os.fsdecode(path) if isinstance(path, (str, bytes)) else str(path)
    hint = _DEMO_HINT if error.errno == errno.ENOENT and _is_of_demo(path) else ''
    return f'{path}{_argument(path)}: {meaning or error.strerror} ({type(error).__name__}){hint}'


def _is_of_demo(path: str) -> bool:
    """Whether it is where configs of this package look for the scans of digits."""
    parts = Path(path).parts
    return any(pair == ('data', 'digits') for pair in zip(parts, parts[1:]))


def _text(error: Exception) -> Optional[str]:
    text = _last(error)
    for pattern, meaning in _TEXTS.items():
        # A worker's error arrives with the worker's traceback in its text.
        if re.search(pattern, text) or re.search(pattern, str(error)[:200]):
            file = _file_in_use(error) if 'disk' in meaning else ''
            return f'{file}{meaning} ({text})'
    return None


def _file_in_use(error: Exception) -> str:
    """A full disk does not say where: the innermost frame that does."""
    found = ''
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name in _FILE_NAMES:
            value = frame.f_locals.get(name)
            if isinstance(value, (str, Path)) and os.path.isabs(value):
                found = str(value)
    return f'{found}{_argument(found)}: ' if found else ''


def _answer(error: Exception) -> Optional[str]:
    return _named(error) if isinstance(error, _ANSWERS) else None


def _last(error: Exception) -> str:
    """Type and text; of a data loader worker's error the worker's own."""
    text = str(error)
    found = _WORKER.search(text)
    if found is None:
        return _named(error)
    lines = text.splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.startswith('  ')), default=-1)
    return one_line(' '.join(lines[last_frame + 1 :]) or found.group(), _SHOWN)


def _named(error: Exception) -> str:
    return one_line(error, _SHOWN)


def _argument(path: str) -> str:
    """Where on the command line a path, or a folder above it, was given."""
    for before, word in zip(sys.argv, sys.argv[1:]):
        option, _, value = word.rpartition('=')
        if not value or not _is_in(path, value):
            continue
        name = option or (before if before.startswith('--') else '')
        if name:
            return f' (given with {name})'
    return ''


def _is_in(path: str, folder: str) -> bool:
    try:
        inner, outer = os.path.abspath(path), os.path.abspath(folder)
        return inner == outer or inner.startswith(outer + os.sep)
    except (OSError, ValueError):
        return False


_CERTAIN = (_install, _config, _import, _pair, _keyword, _image, _system)
#: What the code could cause as well.
_LIKELY = (_memory, _depth, _head, _text, _answer)
