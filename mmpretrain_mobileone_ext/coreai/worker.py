"""Reads and runs one ``.aimodel`` for another process, by Apple's interpreter: a program.

The interpreter is native code, and a file may come from anywhere: what happens to this process
happens to nobody else. It takes frames from a Unix socket and answers each with one:

    frame    8 bytes, length of what follows, big endian; then the bytes
    request  a NumPy archive (``.npz``) with one array per input
    answer   'D' and what the file holds, in JSON: the first one
             'O' and an archive with one array per output
             'E' and what went wrong, in words

Started by its path, with the standard library, NumPy and ``coreai-core`` only, so that it is up in
a fraction of a second.
"""

import asyncio
import io
import json
import os
import socket
import struct
import sys

LENGTH = struct.Struct('>Q')
DESCRIPTION, OUTPUTS, ERROR = b'D', b'O', b'E'
_MAIN = 'main'
_NO_OPERATIONS = ('module', 'graph', 'constant', 'output', 'return')
#: What a stored weight passes on its way, as ``constexpr`` operations of Core ML.
_STORING = (
    'lut_to_dense',
    'blockwise_shift_scale',
    'build_sparse_with_bitmask',
    'lut_to_sparse_with_bitmask',
    'sparse_with_bitmask_to_dense',
)


def receive(channel, limit):
    """One frame, or None at the end.

    Raises:
        ValueError: it is longer than ``limit`` bytes.
    """
    head = _exactly(channel, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > limit:
        raise ValueError(f'a frame of {length} bytes; allowed: {limit}')
    return _exactly(channel, length)


def send(channel, kind, body):
    """Send a frame."""
    channel.sendall(LENGTH.pack(len(kind) + len(body)))
    channel.sendall(kind)
    channel.sendall(body)


def pack(arrays):
    """Arrays by name as bytes, which hold nothing but numbers."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(body):
    """What :func:`pack` packed.

    Raises:
        ValueError: it is none.
    """
    import numpy as np

    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _exactly(channel, length):
    parts = bytearray()
    while len(parts) < length:
        part = channel.recv(min(length - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def walk(program):
    """All operations of a program, in order; they live as long as it."""
    todo = [program._module._mlir_module.operation]
    while todo:
        op = todo.pop()
        yield op
        inner = [o.operation for r in op.regions for b in r.blocks for o in b.operations]
        todo.extend(reversed(inner))


def _operations(asset):
    """[type, dtypes of results, what made its weights dense] of every operation, in order."""
    program, found = asset.program, []
    for op in walk(program):
        kind = op.name.rpartition('.')[2]
        if kind not in (*_NO_OPERATIONS, *_STORING):
            dtypes = [_dtype(str(result.type)) for result in op.results]
            found.append([kind, dtypes, _stored(op)])
    return found


def _stored(op):
    """Operations that make a weight of this one dense."""
    # The owner of a graph's input has no name.
    owners = [getattr(value.owner, 'name', '').rpartition('.')[2] for value in op.operands]
    return [name for name in owners if name in _STORING]


def _dtype(type_):
    """'f16' of ``tensor<1x16xf16>``."""
    return type_.rstrip('>').rpartition('x')[2].rpartition('<')[2]


def _feature(describe, name):
    found = describe(name)
    return dict(name=name, shape=list(found.shape), dtype=str(found.dtype))


def _describe(asset, function):
    known = function.desc
    return dict(
        inputs=[_feature(known.input_descriptor, n) for n in known.input_names],
        outputs=[_feature(known.output_descriptor, n) for n in known.output_names],
        states=list(known.state_names),
        operations=_operations(asset),
    )


async def _serve(path, channel, limit):
    from coreai.authoring.asset import AIModelAsset
    from coreai.runtime import NDArray

    asset = AIModelAsset.load(path)
    async with asset.executable() as model:
        function = model.load_function(_MAIN)
        send(channel, DESCRIPTION, json.dumps(_describe(asset, function)).encode())
        while (request := receive(channel, limit)) is not None:
            given = {name: NDArray(value) for name, value in unpack(request).items()}
            found = await function(given)
            send(channel, OUTPUTS, pack({name: value.numpy() for name, value in found.items()}))


def _limit_memory(limit):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(path, address, memory):
    """Serve ``path`` to whoever listens at ``address``, within ``memory`` bytes."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(address)
        # What the interpreter prints is for nobody.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            _limit_memory(int(memory))
            asyncio.run(_serve(path, channel, int(memory)))
        except Exception as error:
            words = ' '.join(f'{type(error).__name__}: {error}'.split())
            send(channel, ERROR, words[:2000].encode())


if __name__ == '__main__':
    main(*sys.argv[1:])
