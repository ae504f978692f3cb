"""Small checkpoints that ask for much memory or time.

``GREEDY`` are pickles; each names what the error must say. ``files`` wraps them, and others that
are greedy by their container, as checkpoint files.
"""

import io
import struct
import zipfile

import malicious_pickles as bad
import torch

COPIES = 20_000
_ARRAY = bad.name('numpy.core.multiarray', '_reconstruct')
_BYTES = bad.blob(bytes(100_000))
_ZERO = b'K\x00'


def number(value):
    """LONG1 of any integer of up to 255 bytes."""
    size = value.bit_length() // 8 + 1
    data = value.to_bytes(size, 'little', signed=True)
    return b'\x8a' + bytes([size]) + data


def get(index):
    return b'j' + struct.pack('<I', index)


def kept(value, index):
    """A value that is in the memo and no longer on the stack."""
    return value + b'r' + struct.pack('<I', index) + b'0'


def doubled(levels, kind=bad.tup):
    """A value with 2 ** levels leaves, in the memo at 1000 + levels."""
    made = kept(kind(bad.text('x')), 1000)
    for level in range(levels):
        below = get(1000 + level)
        made += kept(kind(below, below), 1001 + level)
    return made + get(1000 + levels)


def repeated(function, *arguments, times=COPIES):
    """The same call again and again, of the same arguments."""
    made = kept(function, 1) + kept(bad.tup(*arguments), 2)
    return made + b']' + (get(1) + get(2) + b'R' + b'a') * times


def distinct(count, width=4):
    return bad.lst(*(b'U' + bytes([width]) + f'{i:0{width}x}'.encode() for i in range(count)))


def pairs(count):
    return bad.lst(*(b'U\x04' + f'{i:04x}'.encode() + b'N\x86' for i in range(count)))


def mapping(count):
    items = b''.join(b'U\x04' + f'{i:04x}'.encode() + b'N' for i in range(count))
    return b'}(' + items + b'u'


def dtype(spec):
    return bad.call(bad.name('numpy', 'dtype'), bad.text(spec))


def array_state(shape, spec, data):
    return bad.tup(b'K\x01', bad.tup(*map(number, shape)), dtype(spec), b'\x89', bad.blob(data))


def array(*state):
    empty = bad.call(_ARRAY, bad.name('numpy', 'ndarray'), bad.tup(_ZERO), bad.blob(b'b'))
    return empty + array_state(*state) + b'b'


def swapped_dtypes(memo=5000, times=5000):
    """Each BUILD of a dtype once looked through the whole memo."""
    filled = b''.join(kept(b'N', 10_000 + i) for i in range(memo))
    state = bad.tup(
        b'K\x03', bad.text('>'), b'NNN', b'J\xff\xff\xff\xff', b'J\xff\xff\xff\xff', _ZERO
    )
    one = get(1) + get(2) + b'R' + get(3) + b'b0'
    return (
        filled
        + kept(bad.name('numpy', 'dtype'), 1)
        + kept(bad.tup(bad.text('f4')), 2)
        + kept(state, 3)
        + one * times
    )


def histories():
    fields = bad.dic(
        max_length=number(1 << 40),
        _log_history=array((10_000,), 'f8', bytes(80_000)),
        _count_history=array((10_000,), 'i8', bytes(80_000)),
    )
    one = get(1) + b')\x81' + get(2) + b'b' + b'a'
    return kept(bad.name(bad.HISTORY, 'HistoryBuffer'), 1) + kept(fields, 2) + b']' + one * COPIES


def arrays():
    state = array_state((100_000,), 'i1', bytes(100_000))
    one = get(1) + get(2) + b'R' + get(3) + b'b' + b'a'
    return (
        kept(_ARRAY, 1)
        + kept(bad.tup(bad.name('numpy', 'ndarray'), bad.tup(_ZERO), bad.blob(b'b')), 2)
        + kept(state, 3)
        + b']'
        + one * COPIES
    )


def storage():
    return (
        bad.tup(
            bad.text('storage'),
            bad.name('torch', 'FloatStorage'),
            bad.text('0'),
            bad.text('cpu'),
            b'K\x02',
        )
        + b'Q'
    )


def tensor(size, stride, grad=b'\x89', metadata=b'N'):
    return bad.call(
        bad.name('torch._utils', '_rebuild_tensor_v2'),
        storage(),
        _ZERO,
        bad.tup(*map(number, size)),
        bad.tup(*map(number, stride)),
        grad,
        b'N',
        metadata,
    )


def views():
    """1.8 kB of numbers as 500 tensors that are 200 kB each."""
    arguments = bad.tup(storage(), _ZERO, bad.tup(number(200_000)), bad.tup(_ZERO), b'\x89', b'N')
    return (
        kept(bad.name('torch._utils', '_rebuild_tensor_v2'), 1)
        + kept(arguments, 2)
        + b']'
        + (get(1) + get(2) + b'R' + b'a') * 500
    )


def colliding(count=4000):
    """Pairs of numbers that all have the same hash, as keys."""
    keys, ring = [], (1 << 64) - 1
    one, two, five = (11400714785074694791, 14029467366897019727, 2870177450012600261)
    back = pow(one, -1, 1 << 64)
    target, first = 12345 << 20, 1 << 20
    while len(keys) < count:
        first += 1
        lane = (five + first * two) & ring
        lane = ((lane << 31 | lane >> 33) & ring) * one & ring
        wanted = (target - (2 ^ five ^ 3527539)) * back & ring
        wanted = (wanted << 33 | wanted >> 31) & ring
        second = (wanted - lane) * pow(two, -1, 1 << 64) & ring
        if second < (1 << 61) - 1:
            keys.append((first, second))
    return keys


def key_of(value):
    return b'}' + value + b'Ns'


def nested_sets():
    return doubled(30, lambda *items: b'(' + b''.join(items) + b'\x91')


BIG = 10**12
# name, what the error says, pickle
GREEDY = [
    ('text of an id', 'the persistent id', doubled(30) + b'Q'),
    ('text of a dtype', 'numpy.dtype(', bad.call(bad.name('numpy', 'dtype'), doubled(30))),
    (
        'text of a codec',
        '_codecs.encode(',
        bad.call(bad.name('_codecs', 'encode'), bad.text(''), doubled(30)),
    ),
    (
        'text of a name',
        'builtins.getattr(',
        bad.call(
            bad.name('builtins', 'getattr'), bad.name(bad.HISTORY, 'HistoryBuffer'), doubled(30)
        ),
    ),
    ('text of a switch', 'requires_grad=', tensor((2,), (1,), doubled(30))),
    ('long name', 'nobody', bad.name('nobody', 'x' * 4000)),
    ('long global line', 'a line without end', bad.name('os', 'x' * 99_999)),
    ('nested key', 'a key of type tuple', key_of(doubled(40))),
    ('nested sets', 'a key of type frozenset', nested_sets()),
    (
        'wide key',
        'a key of type tuple',
        kept(bad.tup(*[b'N'] * 20_000), 1) + b'}' + (get(1) + b'Ns') * 20_000,
    ),
    (
        'long number as key',
        'a key of type int',
        b'}\x8b' + (100_000).to_bytes(4, 'little') + b'\x01' * 100_000 + b'Ns',
    ),
    (
        'complex keys',
        'a key of type complex',
        key_of(bad.call(bad.name('builtins', 'complex'), b'K\x01', b'K\x02')),
    ),
    ('NaN keys', 'a key of type float', key_of(b'G' + struct.pack('>d', float('nan')))),
    (
        'colliding keys',
        'a key of type tuple',
        b'}' + b''.join(number(a) + number(b) + b'\x86Ns' for a, b in colliding()),
    ),
    ('dtype x memo', 'builds more than', swapped_dtypes()),
    ('pairs', 'builds more than', repeated(bad.name('collections', 'OrderedDict'), pairs(5000))),
    ('sets', 'builds more than', repeated(bad.name('builtins', 'set'), distinct(5000))),
    (
        'frozen sets',
        'builds more than',
        repeated(bad.name('builtins', 'frozenset'), distinct(5000)),
    ),
    ('counters', 'builds more than', repeated(bad.name('collections', 'Counter'), mapping(5000))),
    (
        'configs',
        'builds more than',
        repeated(bad.name('mmengine.config', 'ConfigDict'), mapping(5000)),
    ),
    ('bytearrays', 'builds more than', repeated(bad.name('builtins', 'bytearray'), _BYTES)),
    (
        'encoded text',
        'builds more than',
        repeated(bad.name('_codecs', 'encode'), bad.text('x' * 100_000)),
    ),
    (
        'scalars',
        'builds more than',
        repeated(bad.name('numpy.core.multiarray', 'scalar'), dtype('S100000'), _BYTES),
    ),
    ('arrays', 'builds more than', arrays()),
    ('histories', 'builds more than', histories()),
    (
        'empty dicts',
        'builds more than',
        repeated(bad.name('collections', 'OrderedDict'), times=400_000),
    ),
    ('sets of a byte', 'builds more than', b'\x8f' * 1_900_000),
    ('many operations', 'more than 2000000 operations', b'N0' * 1_100_000),
    ('one number, expanded', 'hold more than', tensor((BIG,), (0,))),
    ('one number, many times', 'hold more than', views()),
    ('sizes beyond 64 bits', 'malformed size', tensor((1 << 1000,), (0,))),
    ('too many sizes', 'malformed size', tensor([1] * 5000, [0] * 5000)),
    (
        'truth of a tensor',
        'tensor metadata',
        tensor((2,), (1,), metadata=tensor((1 << 20, 1), (0, 0))),
    ),
    (
        'comparison with a tensor',
        'annotated numpy.dtype',
        dtype('f4')
        + bad.tup(b'K\x03', bad.text('<'), b'NNN', tensor((1 << 24,), (0,)), b'K\x04', _ZERO)
        + b'b',
    ),
    ('empty array of all memory', 'empty, but large', array((1 << 40, 0), 'f8', b'')),
    ('empty array of long text', 'empty, but large', array((0,), 'S999999999', b'')),
    (
        'empty buffer of long text',
        'empty, but large',
        bad.call(
            bad.name('numpy.core.numeric', '_frombuffer'),
            bad.blob(b''),
            dtype('S999999999'),
            bad.tup(_ZERO),
            bad.text('C'),
        ),
    ),
    ('long digits', 'a line without end', b'L' + b'9' * 100_000 + b'L\n'),
    ('long memo index', 'a line without end', b'g' + b'9' * 100_000 + b'\n'),
    (
        'device',
        'torch.device of no name',
        bad.call(bad.name('torch', 'device'), bad.text('x' * 100_000)),
    ),
    ('claimed bytes', 'not a readable checkpoint', b'\x8e' + (1 << 40).to_bytes(8, 'little')),
    ('claimed bytearray', 'not a readable checkpoint', b'\x96' + (1 << 40).to_bytes(8, 'little')),
    ('claimed text', 'not a readable checkpoint', b'\x8d' + (1 << 40).to_bytes(8, 'little')),
    (
        'claimed frame',
        'not a readable checkpoint',
        b'\x80\x04\x95' + (1 << 60).to_bytes(8, 'little'),
    ),
    (
        'names of no tensors',
        'must be a dict of tensors',
        key_of(bad.tup(*[bad.text('x' * 10_000)] * 9))[:-1] + b's',
    ),
]


def many_records(count=200_000):
    """A zip file of nothing but entries of its directory."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w') as archive:
        for index in range(10):
            archive.writestr(f'a/{index}', b'')
        start = archive.fp.tell()
    data = made.getvalue()[:start]
    entry = (
        struct.pack(
            '<4s4B4HL2L5H2L', b'PK\1\2', 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0
        )
        + b'a/0'
    )
    end = struct.pack(
        '<4s4H2LH', b'PK\5\6', 0, 0, count & 0xFFFF, count & 0xFFFF, len(entry) * count, start, 0
    )
    return data + entry * count + end


def legacy_claim():
    """Storages that each claim the whole file."""
    one = [
        bad.tup(
            bad.text('storage'),
            bad.name('torch', 'ByteStorage'),
            bad.text(key),
            bad.text('cpu'),
            number(50_000),
            b'N',
        )
        + b'Q'
        for key in range(99)
    ]
    return bad.legacy_file(bad.lst(*one, bad.blob(bytes(50_000))) + bad.STOP)


def files():
    """name, what the error says, bytes."""
    for name, says, pickled in GREEDY:
        yield f'{name} (zip)', says, bad.zip_file(pickled + bad.STOP)
    for name, says, pickled in GREEDY:
        if b'Q' not in pickled:  # storages are named otherwise there
            yield f'{name} (legacy)', says, bad.legacy_file(pickled + bad.STOP)
    yield 'many records', 'a zip directory of', many_records()
    yield 'legacy claims', 'storages up to', legacy_claim()
    empty = torch.zeros(0)
    made = io.BytesIO()
    torch.save({'w': empty}, made)
    yield 'no weights at all', '', made.getvalue()
