"""Apple's interpreter of ``.aimodel`` files, in a process of its own.

A file is checked here before it goes there: its parts, their sizes, and the hash that it states of
its program. What then happens to the interpreter, which is native code, becomes one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..coreml.metadata import plain
from ..coreml.program.graph import Feature, Operation, Program
from ..coreml.runtime.loaded import LoadedProgram
from ..errors import ProgramError
from ..utils.files import PathLike
from ..utils.machine import free_bytes
from ..utils.processes import ChildProcess
from ..utils.text import one_line
from . import worker
from .extra import require

PROGRAM, HASH, METADATA = 'main.mlirb', 'main.hash', 'metadata.json'
#: Entries of the metadata that this package reads; all are under the creator's own.
_OWN = 'creatorDefinedMetadata'
_MAX_METADATA = 2**24
_MAX_PROGRAM = 2**32
_DTYPES = {'Float16': 'fp16', 'Float32': 'fp32', 'f16': 'fp16', 'f32': 'fp32'}
#: To read and lower a file, in seconds, and more for each MiB of it.
_TO_LOAD, _A_MIB = 20.0, 0.5
#: For one image: S0 at 224 pixels takes 2 s on a slow core.
_TO_RUN = 120.0
#: An answer is at most so large.
_MAX_ANSWER = 2**31
#: Of addresses, in bytes: the interpreter's libraries and threads reserve much that they never use.
_LEAST_MEMORY = 2**33
_LOOK = 0.2
#: A null outside of quotes, or a word that only looks like one: text does for it as well.
_NULL = re.compile(r'\bnull\b')


class InterpretedAsset(LoadedProgram):
    """An ``.aimodel`` executed by Apple's interpreter; it takes one sample at a time.

    Args:
        path: the folder.

    Raises:
        ProgramError: the folder is damaged, or the interpreter does not take it.
    """

    arithmetic = "Apple's interpreter"

    def __init__(self, path: PathLike):
        self._process = InterpreterProcess(checked(path))
        super().__init__(self._process.program)

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """As the parent's; inputs are arrays or tensors."""
        self._check_names(inputs)
        given = {name: torch.as_tensor(np.asarray(value)) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self._run_whole(given).items()}

    def _run_whole(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for feature in self.program.inputs:
            shape = tuple(inputs[feature.name].shape)
            if not feature.allows(shape):
                raise ProgramError(
                    f'input {feature.name!r} has shape {shape}; the model takes {feature.allowed}'
                )
        return self._process.run(inputs, {f.name: f.dtype for f in self.program.inputs})


class InterpreterProcess:
    """The other process, from its start to its end.

    Attributes:
        program: what it says of the file.
    """

    def __init__(self, path: Path):
        require('to run an .aimodel')
        if not hasattr(socket, 'AF_UNIX'):
            raise ProgramError(f'{path}: Core AI runs on Linux and macOS only')
        self._path = path
        size = (path / PROGRAM).stat().st_size
        memory = max((free_bytes('cpu') or 0) // 2, _LEAST_MEMORY)
        with (
            tempfile.TemporaryDirectory(prefix='aimodel-') as folder,
            socket.socket(socket.AF_UNIX) as server,
        ):
            address = str(Path(folder, 'socket'))
            server.bind(address)
            server.listen(1)
            seconds = _TO_LOAD + _A_MIB * size / 2**20
            self._child = ChildProcess(
                [sys.executable, '-P', worker.__file__, str(path), address, str(memory)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                with self._in_words('reading it', seconds):
                    self._channel = self._accepted(server, seconds)
                    self.program = _program(path, json.loads(self._answer(worker.DESCRIPTION)))
            except BaseException:
                self.close()
                raise

    def _accepted(self, server: socket.socket, seconds: float) -> socket.socket:
        """The connection, as soon as the other process is up."""
        server.settimeout(_LOOK)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._child.poll() is not None:
                raise ConnectionError('it ended')
            with contextlib.suppress(TimeoutError):
                channel, _ = server.accept()
                channel.settimeout(seconds)
                return channel
        raise TimeoutError

    def run(self, inputs: Mapping[str, Tensor], dtypes: Mapping[str, str]) -> dict[str, Tensor]:
        """Outputs of one sample by name.

        Raises:
            ProgramError: the interpreter fails, or takes too long.
        """
        given = {
            name: value.numpy().astype(np.float16 if dtypes[name] == 'fp16' else np.float32)
            for name, value in inputs.items()
        }
        with self._in_words('running it', _TO_RUN):
            self._channel.settimeout(_TO_RUN)
            worker.send(self._channel, b'', worker.pack(given))
            found = worker.unpack(self._answer(worker.OUTPUTS))
            return {k: torch.from_numpy(value.astype(np.float32)) for k, value in found.items()}

    def close(self) -> None:
        """End it."""
        channel = getattr(self, '_channel', None)
        if channel is not None:
            channel.close()
        child = getattr(self, '_child', None)
        if child is not None:
            child.kill()
            child.wait()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _answer(self, wanted: bytes) -> bytes:
        answer = worker.receive(self._channel, _MAX_ANSWER)
        if answer is None:
            raise ConnectionError('it ended')
        if answer[:1] == worker.ERROR:
            raise ProgramError(
                f'{self._path}: the interpreter says: {one_line(answer[1:].decode("utf-8"), 500)}'
            )
        if answer[:1] != wanted:
            raise ValueError(f'answer {answer[:1]!r}')
        return answer[1:]

    @contextlib.contextmanager
    def _in_words(self, doing: str, seconds: float):
        try:
            yield
        except ProgramError:
            raise
        except TimeoutError:
            self.close()
            raise ProgramError(
                f'{self._path}: {doing} takes the interpreter longer than {seconds:.0f} s'
            ) from None
        # Whatever it sends back comes from native code that read the file.
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise ProgramError(
                f'{self._path}: the interpreter failed while {doing} '
                f'({self._ending() or one_line(error)}); the file is damaged, or no main function '
                'of tensors'
            ) from None

    def _ending(self) -> Optional[str]:
        """How it ended, if it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._child.wait(1)
            return f'ended by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
        return None


def describe(path: PathLike) -> Program:
    """Read what a file says of itself.

    Raises:
        ProgramError: as of :class:`InterpretedAsset`.
    """
    process = InterpreterProcess(checked(path))
    process.close()
    return process.program


def checked(path: PathLike) -> Path:
    """The folder, if it is whole.

    Raises:
        ProgramError: a part is missing, too large or no plain file, or the program is not that of
            the hash.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = 'is a file' if folder.exists() else 'does not exist'
        raise ProgramError(f'{folder}: an .aimodel is a folder, and this {what}')
    for name, most in ((PROGRAM, _MAX_PROGRAM), (HASH, 1024), (METADATA, _MAX_METADATA)):
        part = folder / name
        if part.is_symlink() or not part.is_file():
            raise ProgramError(f'{folder}: {name} is missing, or no plain file')
        if part.stat().st_size > most:
            raise ProgramError(f'{part}: {part.stat().st_size} bytes; at most {most} are read')
    read_metadata(folder)
    digest = hashlib.sha256()
    with (folder / PROGRAM).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not hmac.compare_digest(digest.digest(), (folder / HASH).read_bytes()):
        raise ProgramError(f'{folder}: {PROGRAM} is not what {HASH} says; the file is damaged')
    return folder


def read_metadata(folder: Path) -> dict[str, Any]:
    """What ``metadata.json`` says.

    Raises:
        ProgramError: it is no JSON object.
    """
    try:
        found = json.loads((folder / METADATA).read_text('utf-8'))
        if not isinstance(found, dict) or not isinstance(found.get(_OWN, {}), dict):
            raise ValueError('no JSON object')
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise ProgramError(f'{folder / METADATA} cannot be read: {one_line(error)}') from None


def write_metadata(folder: Path, own: Mapping[str, Any], standard: Mapping[str, str]) -> None:
    """Set entries of ``metadata.json``; the program is not touched.

    Args:
        own: entries of the creator, JSON values.
        standard: 'author', 'license' and 'modelDescription'.
    """
    found = read_metadata(folder)
    found.update(standard)
    entries = {k: _entry(v) for k, v in plain(own).items() if v is not None}
    found.setdefault(_OWN, {}).update(entries)
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METADATA).write_text(text, 'utf-8')


def _entry(value: Any) -> Any:
    """A JSON value; as text where it holds a null, which Apple's reader refuses."""
    text = json.dumps(value, ensure_ascii=False)
    return text if _NULL.search(text) else value


def _program(path: Path, said: Mapping[str, Any]) -> Program:
    """What the interpreter says, as a ``Program``.

    Raises:
        ProgramError: it asks for what no classifier needs.
    """
    if said['states']:
        raise ProgramError(f'{path}: it keeps a state, as no classifier does')
    metadata = read_metadata(path)
    own = metadata.get(_OWN, {})
    labels = own.get('classes')
    outputs = tuple(_feature(f) for f in said['outputs'])
    has_classes = isinstance(labels, list) and len(outputs) == 1 and bool(labels)
    words = {k: v if isinstance(v, str) else json.dumps(v) for k, v in own.items()}
    standard = dict(author='author', license='license', description='modelDescription')
    words.update({k: str(metadata[v]) for k, v in standard.items() if v in metadata})
    operations = tuple(
        Operation(
            f'{kind}_{i}',
            str(kind),
            {},
            (),
            tuple(_DTYPES.get(d, str(d)) for d in dtypes),
            {'compressed': {'weight': str(stored[0])}} if stored else {},
        )
        for i, (kind, dtypes, stored) in enumerate(said['operations'])
    )
    return Program(
        path,
        'Core AI',
        tuple(_feature(f) for f in said['inputs']),
        outputs,
        operations,
        tuple(map(str, labels)) if has_classes else None,
        '',
        outputs[0].name if has_classes else '',
        words,
        0,
    )


def _feature(said: Mapping[str, Any]) -> Feature:
    shape = tuple(said['shape'])
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f'{said["name"]} is {shape}; sizes must be known')
    return Feature(str(said['name']), 'tensor', shape, _DTYPES.get(said['dtype'], said['dtype']))
