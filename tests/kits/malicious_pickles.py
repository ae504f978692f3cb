"""Pickles that do harm, for the tests of the restricted reader.

``ATTACKS`` create a marker file when the standard ``pickle`` reads them. ``MISUSES`` use admitted
names only, in ways that no checkpoint does.
"""

import io
import pickle
import zipfile
from pathlib import Path

import torch

STOP = b'.'
PROTO4 = b'\x80\x04'
HISTORY = 'mmengine.logging.history_buffer'


# --- a small assembler of pickles -------------------------------------------
def text(value):
    data = str(value).encode()
    return b'X' + len(data).to_bytes(4, 'little') + data


def blob(data):
    return b'B' + len(data).to_bytes(4, 'little') + data


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def dotted(module, attribute):
    """STACK_GLOBAL: from protocol 4 on, dots in a name are followed."""
    return text(module) + text(attribute) + b'\x93'


def tup(*items):
    return b'(' + b''.join(items) + b't'


def lst(*items):
    return b'](' + b''.join(items) + b'e'


def dic(**pairs):
    return b'}' + b''.join(text(k) + v + b's' for k, v in pairs.items())


def call(func, *args):
    return func + tup(*args) + b'R'


def attribute(owner, field):
    return call(name('builtins', 'getattr'), owner, text(field))


def call_keyword(func, *args, **keywords):
    """A call with keywords, by a partial; ``func`` is the first name."""
    first = func + b'q\x010'  # to memo 1, then off the stack
    made = call(name('functools', 'partial'), b'h\x01')
    state = tup(b'h\x01', tup(*args), dic(**keywords), b'N')
    return first + call(made + state + b'b')


def zip_file(pickled):
    """A torch zip archive, its pickle replaced."""
    plain, made = io.BytesIO(), io.BytesIO()
    torch.save({'state_dict': {'w': torch.zeros(2)}}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(made, 'w') as new:
        for record in old.namelist():
            is_pickle = record.endswith('/data.pkl')
            new.writestr(record, pickled if is_pickle else old.read(record))
    return made.getvalue()


def legacy_file(pickled):
    """A torch file of the format before 1.6, its pickle replaced."""
    head = (
        torch.serialization.MAGIC_NUMBER,
        torch.serialization.PROTOCOL_VERSION,
        {'little_endian': True},
    )
    parts = [pickle.dumps(part, 2) for part in head]
    return b''.join([*parts, pickled, pickle.dumps([], 2)])


# --- attacks ----------------------------------------------------------------
def python(marker):
    return text(f"open({str(marker)!r}, 'w').close()")


def touch(marker):
    return text(f'touch {marker}')


def import_chain(marker):
    module = call(name('builtins', '__import__'), text('os'))
    return call(attribute(module, 'system'), touch(marker))


def getattr_globals(marker):
    update = attribute(name(HISTORY, 'HistoryBuffer'), 'update')
    scope = attribute(attribute(update, '__globals__'), 'get')
    names = call(scope, text('__builtins__'))
    return call(call(attribute(names, 'get'), text('eval')), python(marker))


def getattr_class(marker):
    doc = attribute(name('collections', 'OrderedDict'), '__doc__')
    return tup(doc, call(name('os', 'system'), touch(marker)))


def call_of_result(marker):
    getter = call(name('operator', 'attrgetter'), text('os.system'))
    return call(call(getter, name('mmengine.logging', 'logger')), touch(marker))


def torch_load(marker):
    inner = Path(f'{marker}.pt')
    inner.write_bytes(zip_file(call(name('os', 'system'), touch(marker)) + STOP))
    return call_keyword(name('torch', 'load'), text(inner), weights_only=b'\x89')


def hub_load(marker):
    folder = Path(f'{marker}_hub')
    folder.mkdir()
    (folder / 'hubconf.py').write_text(f"def net():\n    open({str(marker)!r}, 'w').close()\n")
    return call_keyword(name('torch.hub', 'load'), text(folder), text('net'), source=text('local'))


def load_from_bytes(marker):
    inner = zip_file(call(name('os', 'system'), touch(marker)) + STOP)
    return call(name('torch.storage', '_load_from_bytes'), blob(inner))


def numpy_load(marker):
    inner = Path(f'{marker}.npy')
    inner.write_bytes(call(name('os', 'system'), touch(marker)) + STOP)
    return call(name('numpy', 'load'), text(inner), b'N', b'\x88')


def default_factory(marker):
    # reading a missing key calls the factory
    factory = call(name('functools', 'partial'), name('os', 'system'), touch(marker))
    made = call(name('collections', 'defaultdict'), factory)
    return call(name('operator', 'getitem'), made, text('missing'))


def codecs_open(marker):
    source = Path(f'{marker}.py')
    source.write_text(f"open({str(marker)!r}, 'w').close()")
    opened = call(name('codecs', 'open'), text(source))
    read = call(attribute(b'h\x02', 'read'))
    return opened + b'q\x020' + call(name('builtins', 'exec'), read)


def new_object(marker):
    path = name('pathlib', 'PosixPath') + tup(text(marker)) + b'\x81'
    return call(attribute(path, 'touch'))


def history_state(marker):
    state = dic(max_length=call(name('builtins', 'eval'), python(marker)))
    return name(HISTORY, 'HistoryBuffer') + b')\x81' + state + b'b'


def build_method(marker):
    # BUILD sets a class's attribute; the next BUILD calls it
    owner = name('types', 'SimpleNamespace') + b')\x81'
    state = dic(__setstate__=name('os', 'system'))
    return owner + state + b'b' + touch(marker) + b'b'


def simple(module, function, argument):
    return lambda marker: call(name(module, function), argument(marker))


# name, what the error says was asked for, builder from a marker path
ATTACKS = [
    ('os', 'os.system', simple('os', 'system', touch)),
    ('posix', 'posix.system', simple('posix', 'system', touch)),
    (
        'popen',
        'subprocess.Popen',
        simple('subprocess', 'Popen', lambda m: lst(text('touch'), text(m))),
    ),
    ('eval', 'builtins.eval', simple('builtins', 'eval', python)),
    ('exec', 'builtins.exec', simple('builtins', 'exec', python)),
    (
        'python2',
        '__builtin__.eval',
        lambda m: b'\x80\x02' + call(name('__builtin__', 'eval'), python(m)),
    ),
    ('import', 'builtins.__import__', import_chain),
    ('getattr globals', "HistoryBuffer, 'update')", getattr_globals),
    ('getattr class', 'getattr(collections.OrderedDict', getattr_class),
    ('call of result', 'operator.attrgetter', call_of_result),
    (
        'partial',
        'functools.partial',
        lambda m: call(call(name('functools', 'partial'), name('os', 'system'), touch(m))),
    ),
    ('torch.load', 'torch.load', torch_load),
    ('torch.hub', 'torch.hub.load', hub_load),
    ('storage bytes', 'torch.storage._load_from_bytes', load_from_bytes),
    ('numpy.load', 'numpy.load', numpy_load),
    (
        'numpy exec',
        'runstring',
        lambda m: call(name('numpy.testing._private.utils', 'runstring'), python(m), dic()),
    ),
    ('default factory', 'operator.getitem', default_factory),
    ('codecs', 'codecs.open', codecs_open),
    ('new object', 'pathlib.PosixPath', new_object),
    ('OBJ', 'io.FileIO', lambda m: b'(' + name('io', 'FileIO') + text(m) + text('w') + b'o'),
    ('INST', 'opcode INST', lambda m: b'(' + text(m) + text('w') + b'iio\nFileIO\n'),
    (
        'dotted module',
        'mmengine.logging.logger.os.system',
        lambda m: PROTO4 + call(dotted('mmengine.logging.logger', 'os.system'), touch(m)),
    ),
    (
        'dotted globals',
        'HistoryBuffer.update.__globals__.get',
        lambda m: (
            PROTO4
            + call(
                dotted(HISTORY, 'HistoryBuffer.update.__globals__.get'),
                call(name('os', 'system'), touch(m)),
            )
        ),
    ),
    ('history state', 'builtins.eval', history_state),
    ('setstate', 'types.SimpleNamespace', build_method),
]
_BUFFER = name(HISTORY, 'HistoryBuffer')
_DTYPE = name('numpy', 'dtype')
_F4 = call(_DTYPE, text('f4'))
_DICT = name('collections', 'OrderedDict')

# name, what the error says was asked for, pickle
MISUSES = [
    ('call a statistic', 'a call of HistoryBuffer.mean', call(attribute(_BUFFER, 'mean'), b'N')),
    ('call a result', 'a call of an object of OrderedDict', call(call(_DICT), b'N')),
    ('call a class', 'a call of mmengine.logging.history_buffer.HistoryBuffer', call(_BUFFER)),
    (
        'dotted dunder',
        'OrderedDict.__init__.__globals__',
        PROTO4 + dotted('collections', 'OrderedDict.__init__.__globals__'),
    ),
    (
        'set a class',
        'setting the state of ' + HISTORY,
        _BUFFER + tup(b'N', dic(update=_BUFFER)) + b'b',
    ),
    (
        'set a function',
        'setting the state of builtins.getattr',
        name('builtins', 'getattr') + dic(__doc__=b'N') + b'b',
    ),
    (
        'set dict methods',
        'attributes of collections.OrderedDict',
        call(_DICT) + dic(items=b'N') + b'b',
    ),
    (
        'set dict slots',
        'attributes of collections.OrderedDict',
        call(_DICT) + tup(b'N', dic(items=b'N')) + b'b',
    ),
    ('TorchScript loader', 'torch.jit.load', name('torch.jit', 'load')),
    ('new tensor', 'a new torch.Tensor', name('torch', 'Tensor') + b')\x81'),
    ('new array', 'a new numpy.ndarray', name('numpy', 'ndarray') + b')\x81'),
    ('new history', 'HistoryBuffer with arguments', _BUFFER + tup(lst(b'N')) + b'\x81'),
    ('new with keywords', 'opcode NEWOBJ_EX', _BUFFER + b')}\x92'),
    (
        'factory',
        'defaultdict(builtins.getattr)',
        call(name('collections', 'defaultdict'), name('builtins', 'getattr')),
    ),
    (
        'codec',
        "_codecs.encode(..., 'rot13')",
        call(name('_codecs', 'encode'), text('a'), text('rot13')),
    ),
    (
        'huge bytearray',
        'bytearray of 2130706432',
        call(name('builtins', 'bytearray'), b'J\x00\x00\x00\x7f'),
    ),
    ('object array', "numpy.dtype('O8')", call(_DTYPE, text('O8'))),
    (
        'object flag',
        'annotated numpy.dtype',
        _F4 + tup(b'K\x03', text('<'), b'N', b'N', b'N', b'K\x08', b'K\x08', b'K\x3f') + b'b',
    ),
    (
        'short scalar',
        'numpy scalar of another size',
        call(name('numpy.core.multiarray', 'scalar'), _F4, blob(b'\0')),
    ),
    (
        'short array',
        'numpy array of another size',
        call(
            name('numpy._core.multiarray', '_reconstruct'),
            name('numpy', 'ndarray'),
            tup(b'K\x00'),
            blob(b'b'),
        )
        + tup(b'K\x01', tup(b'K\x64'), _F4, b'\x89', blob(b'\0'))
        + b'b',
    ),
    (
        'history methods',
        'HistoryBuffer of other statistics',
        _BUFFER
        + b')\x81'
        + dic(
            max_length=b'K\x01',
            _log_history=b'N',
            _count_history=b'N',
            statistics_methods=dic(mean=_BUFFER),
        )
        + b'b',
    ),
    (
        'history attribute',
        'HistoryBuffer of other attributes',
        _BUFFER + b')\x81' + dic(update=b'N') + b'b',
    ),
    ('extension', 'opcode EXT1', b'\x82\xf0'),
    ('text id', 'opcode PERSID', b'Pstorage\n'),
    (
        'other id',
        "persistent id ('module'",
        tup(text('module'), _DICT, text('a.py'), text('source'), b'N') + b'Q',
    ),
    ('list id', 'the persistent id []', b']Q'),
    ('append', 'appending to an object of OrderedDict', call(_DICT) + b'Na'),
    ('stand-in as key', 'a key of type Admitted', b'}' + _BUFFER + b'Ns'),
    ('out-of-band buffer', 'opcode NEXT_BUFFER', b'\x97'),
]
