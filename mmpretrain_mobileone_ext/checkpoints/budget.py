"""How much a checkpoint's pickle may build, bounded by the file's size.

A few bytes of a pickle can ask for much: to copy one long list again and
again, to view one byte as a thousand million numbers. Every operation, call
and tensor of a file is counted here, and nowhere else.
"""

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

_MIB = 1 << 20
#: Any file may build this much: 64 MiB.
_FREE = 64 * _MIB
#: Bytes that a byte of the pickle may build. A tensor takes about 100 bytes
#: of pickle, 3 calls and 3 kB; a history's numbers are copied three times.
_PER_BYTE = 64
#: No pickle builds more, storages apart, than 1 GiB, or what the histories of
#: a long run do: so many times the file.
_MOST = 1024 * _MIB
_MOST_PER_BYTE = 8
#: About 35 a tensor; so many take two seconds.
_OPERATIONS = 2_000_000
#: How often each byte of the file may be seen by tensors; tied weights
#: share theirs.
_VIEWS = 16
#: Bytes of a small object, and of an entry of an OrderedDict, the largest.
_OBJECT = 1024
_ENTRY = 192
_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict, defaultdict, Counter, torch.Size)


class Budget:
    """Counts what one file builds.

    Args:
        pickled (int): Bytes of the file that are pickled, at most.
        size (int): Bytes of the whole file.

    Attributes:
        steps: An iterator of the operations that are left to all pickles of
            the file.
    """

    def __init__(self, pickled: int, size: int) -> None:
        self.size = size
        self.steps = iter(range(min(pickled, _OPERATIONS)))
        self._built = self._most = min(
            _FREE + _PER_BYTE * pickled, max(_MOST, _MOST_PER_BYTE * size)
        )
        self._viewed = _FREE + _VIEWS * size

    def build(self, nbytes: int) -> None:
        """Count bytes that are built.

        Raises:
            CheckpointError: If the file builds more than its size allows.
        """
        self._built -= nbytes
        if self._built < 0:
            raise CheckpointError(
                f'refuses to load: the pickle builds more than '
                f'{self._most >> 20} MiB, which is what a file of '
                f'{self.size} bytes may'
            )

    def call(self, arguments: Any) -> None:
        """Count a call, which may copy each of its arguments."""
        self.build(_OBJECT + _weight(arguments))
        if isinstance(arguments, (dict, tuple)):
            members = arguments.values() if isinstance(arguments, dict) else arguments
            self.build(sum(map(_weight, members)))

    def view(self, tensor: torch.Tensor) -> None:
        """Count the bytes of a tensor, were it copied out of its storage.

        Raises:
            CheckpointError: If all tensors are larger than the file allows.
        """
        self._viewed -= tensor.numel() * tensor.element_size()
        if self._viewed < 0:
            raise CheckpointError(
                f'refuses to load: the tensors up to one of shape '
                f'{tuple(tensor.shape)} hold more than {_FREE >> 20} MiB and '
                f'{_VIEWS} times the {self.size} bytes of the file'
            )

    def out_of_steps(self) -> CheckpointError:
        """The error for a pickle that takes too many operations."""
        return CheckpointError(
            f'refuses to load: the pickle has more than {_OPERATIONS} operations'
        )


def _weight(value: Any) -> int:
    """Bytes of a copy of ``value``, its members not copied."""
    if type(value) in (str, bytes, bytearray):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    return _ENTRY * len(value) if type(value) in _CONTAINERS else 0
