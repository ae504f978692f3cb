"""Whatever plain data torch.save writes, the restricted reader gives back."""

import io
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from same_values import assert_same

from mmpretrain_mobileone_ext.checkpoints.safe_pickle import restricted_load

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
)
CONSTANTS = (
    *DTYPES,
    torch.device('cpu'),
    torch.device('cuda', 1),
    torch.Size([2, 3]),
    b'',
    b'\xff\x00',
    bytearray(b'\x80'),
    frozenset({1}),
    {2.5},
    np.str_(''),
    np.str_('é'),
    np.bytes_(b'x'),
    np.dtype('>i2'),
    Counter('abca'),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.complex_numbers(allow_nan=False),
)
# Keys hold at most 64 bits of numbers; see is_plain_key.
WORDS = st.integers(-1 << 63, (1 << 63) - 1)
KEYS = st.one_of(st.text(max_size=5), WORDS, st.tuples(WORDS, st.text(max_size=3)))
ARRAYS = hnp.arrays(
    st.one_of(
        hnp.scalar_dtypes().filter(lambda d: d.kind in 'biufc'),
        hnp.unicode_string_dtypes(max_len=4),
    ),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), min_size=0, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    base = torch.randint(0, 100, [2, *shape]).to(dtype)
    kind = draw(st.sampled_from(['plain', 'view', 'transposed', 'conj', 'parameter']))
    if kind == 'view':
        return base[1]
    if kind == 'transposed':
        return base.transpose(0, -1)
    if kind == 'conj' and dtype.is_complex:
        return base.conj()
    if kind == 'parameter':
        grad = dtype.is_floating_point
        return torch.nn.Parameter(base, requires_grad=grad)
    return base


def containers(inner):
    pairs = st.dictionaries(KEYS, inner, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        pairs,
        pairs.map(OrderedDict),
        pairs.map(lambda items: defaultdict(list, items)),
    )


VALUES = st.recursive(
    st.one_of(
        SCALARS, tensors(), ARRAYS, ARRAYS.map(lambda a: a.ravel()[:1]), st.sampled_from(CONSTANTS)
    ),
    containers,
    max_leaves=8,
)


def reloaded(value, protocol=2, is_zip=True):
    data = io.BytesIO()
    torch.save(value, data, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    data.seek(0)
    return restricted_load(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, st.sampled_from([2, 3, 4, 5]), st.booleans())
def test_round_trip(value, protocol, is_zip):
    assert_same(reloaded(value, protocol, is_zip), value)


@pytest.mark.parametrize('value', CONSTANTS, ids=str)
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_constants(value, protocol):
    assert_same(reloaded(value, protocol), value)


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('protocol', [2, 5])
def test_identity_and_shared_storage_survive(is_zip, protocol):
    base = torch.arange(12.0)
    shared = [1, base]
    value = {
        'a': shared,
        'b': shared,
        'head': base[:4],
        'odd': base[1::2],
        'byte order': np.arange(3, dtype='>f4'),
        'again': np.arange(2, dtype='>f4'),
        'native': np.arange(2.0),
    }
    value['self'] = value
    got = reloaded(value, protocol, is_zip)
    assert got['self'] is got
    assert got['a'] is got['b']
    got['a'][1][1] = 99.0
    assert got['head'][1] == 99.0
    assert got['odd'][0] == 99.0
    for key in ('byte order', 'again', 'native'):
        assert_same(got[key], value[key])


def test_numpy_scalars_of_every_plain_kind():
    values = [
        np.float64(1.5),
        np.float16(2),
        np.int64(-3),
        np.uint8(4),
        np.bool_(True),
        np.complex64(1j),
        np.float32('nan'),
    ]
    for got, want in zip(reloaded(values), values):
        assert type(got) is type(want)
        np.testing.assert_array_equal(got, want)


def test_attributes_of_a_tensor_are_left_out():
    tensor = torch.ones(2)
    tensor.copy_ = 'not a method'
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = 'text'
    got = reloaded([tensor, parameter])
    assert_same(got, [torch.ones(2), torch.nn.Parameter(torch.ones(2))])
    assert got[0].copy_(torch.zeros(2)).sum() == 0
    assert not hasattr(got[1], 'note')


def test_metadata_of_a_state_dict_survives():
    state = torch.nn.BatchNorm2d(2).state_dict()
    got = reloaded(state)
    assert got._metadata == state._metadata
    assert isinstance(got._metadata, OrderedDict)


def test_raw_storage_and_torch_version():
    storage = torch.arange(3, dtype=torch.uint8).untyped_storage()
    got = reloaded({'s': storage, 'v': torch.__version__})
    assert got['s'].tolist() == [0, 1, 2]
    assert type(got['v']) is str
    assert got['v'] == str(torch.__version__)


def test_a_wrong_value_is_noticed():
    with pytest.raises(AssertionError):
        assert_same(reloaded(torch.ones(2)), torch.tensor([1.0, 1.001]))
    with pytest.raises(AssertionError):
        assert_same(reloaded(torch.ones(2, 3).t()), torch.ones(3, 2))
