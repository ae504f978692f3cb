"""Files of torch.save before 1.6, taken apart and put together again."""

import io
import pickle
import pickletools
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Legacy:
    """The parts of a file; ``storages`` are (count, bytes) by key."""

    head: bytes
    pickled: bytes
    storages: dict
    keys: tuple
    suffix: bytes = b''

    def bytes(self):
        parts = [self.head, self.pickled, pickle.dumps(list(self.keys), 2)]
        for key in self.keys:
            count, data = self.storages.get(key, (0, b''))
            parts += [count.to_bytes(8, 'little', signed=True), data]
        return b''.join([*parts, self.suffix])

    def change(self, **parts):
        return replace(self, **parts)


def taken_apart(value):
    """What torch.save writes for ``value``, all its tensors float32."""
    made = io.BytesIO()
    torch.save(value, made, _use_new_zipfile_serialization=False)
    data = made.getvalue()
    made.seek(0)
    ends = []
    for _ in range(5):
        for _ in pickletools.genops(made):
            pass
        ends.append(made.tell())
    keys, storages = pickle.loads(data[ends[3] : ends[4]]), {}
    made.seek(ends[4])
    for key in keys:
        count = int.from_bytes(made.read(8), 'little')
        storages[key] = count, made.read(4 * count)
    assert not made.read()
    return Legacy(data[: ends[2]], data[ends[2] : ends[3]], storages, tuple(keys))
