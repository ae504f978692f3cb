"""Writing and reading at places: saved programs against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import check, noise, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

COMBINE = {
    'update': lambda old, new: new,
    'add': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'div': np.divide,
    'max': np.maximum,
    'min': np.minimum,
}
MODES = list(COMBINE)
ONE_BY_ONE = [m for m in MODES if m != 'update']


def wanted_nd(data, indices, updates, mode):
    """One update after the other, in the order of the indices."""
    out = data.copy()
    for place in np.ndindex(indices.shape[:-1]):
        at = tuple(indices[place])
        out[at] = COMBINE[mode](out[at], updates[place])
    return out


def wanted_along(data, indices, updates, axis, mode):
    full = np.stack(np.meshgrid(*map(np.arange, indices.shape), indexing='ij'), -1)
    full[..., axis] = indices
    return wanted_nd(data, full, updates, mode)


def wanted_scatter(data, indices, updates, axis, mode):
    moved = wanted_nd(
        np.moveaxis(data, axis, 0), indices[:, None], np.moveaxis(updates, axis, 0), mode
    )
    return np.moveaxis(moved, 0, axis)


DATA = noise(4, 5, 3)
NEW = noise(4, 2, 3, low=0.5)
DEEP = noise(2, 2, 3, low=0.5)
ALONG = np.array([[[4, 0, 1]], [[1, 1, 3]], [[0, 2, 2]], [[3, 4, 0]]])
PAIRS = np.array([[[3, 0], [1, 4]], [[0, 2], [2, 2]]])


@pytest.mark.parametrize('target', ['iOS16', 'iOS17', 'iOS18', 'iOS26'])
def test_saved_programs(target, tmp_path):
    """Every mode of every operation in one file, read back from disk."""

    def build(mb, data, new, along, deep):
        found = []
        for i, mode in enumerate(MODES):
            found += [
                mb.scatter(
                    data=data,
                    indices=np.int32([3, 1]),
                    updates=new,
                    axis=-2,
                    mode=mode,
                    name=f's{i}',
                ),
                mb.scatter_along_axis(
                    data=data,
                    indices=np.int32(ALONG),
                    updates=along,
                    axis=1,
                    mode=mode,
                    name=f'a{i}',
                ),
                mb.scatter_nd(
                    data=data, indices=np.int32(PAIRS), updates=deep, mode=mode, name=f'n{i}'
                ),
            ]
        return found

    inputs = {'data': DATA, 'new': NEW, 'along': noise(4, 1, 3, low=0.5), 'deep': DEEP}
    got = load_program(save_mil(build, inputs, tmp_path, target)).predict(inputs)
    for i, mode in enumerate(MODES):
        check(got[f's{i}'], wanted_scatter(DATA, np.array([3, 1]), NEW, 1, mode))
        check(got[f'a{i}'], wanted_along(DATA, ALONG, inputs['along'], 1, mode))
        check(got[f'n{i}'], wanted_nd(DATA, PAIRS, DEEP, mode))


def test_indices_from_the_input(tmp_path):
    """They are data then; a batch of samples has those of each sample."""
    data, indices = noise(5, 2), np.int32([4, 0, 2])
    updates = noise(3, 2)

    def build(mb, data, indices, updates):
        picked = mb.gather_nd(x=data, indices=mb.expand_dims(x=indices, axes=[1]))
        return [
            mb.scatter(data=data, indices=indices, updates=updates, mode='add', name='out'),
            mb.add(x=picked, y=updates, name='sum'),
        ]

    inputs = {'data': data, 'indices': indices, 'updates': updates}
    loaded = load_program(save_mil(build, inputs, tmp_path, 'iOS17'))
    got = loaded.predict(inputs)
    check(got['sum'], data[indices] + updates)
    check(got['out'], wanted_nd(data, indices[:, None], updates, 'add'))
    both = {k: torch.tensor(np.stack([v, v[::-1]])) for k, v in inputs.items()}
    batch = loaded.predict_batch(both)
    check(batch['out'][0].numpy(), got['out'])
    check(batch['out'][1].numpy(), wanted_nd(data[::-1], indices[::-1, None], updates[::-1], 'add'))


@pytest.mark.parametrize('mode', ONE_BY_ONE)
@pytest.mark.parametrize('dtype', [torch.float32, torch.int32])
def test_an_index_twice(mode, dtype):
    """All updates count, whatever their order; integers stay integers."""
    data = torch.tensor([[60, -35], [7, 90], [8, 5]]).to(dtype)
    updates = torch.tensor([[2, 3], [-3, 4], [5, -2]]).to(dtype)
    indices = torch.tensor([0, 1, 0])
    found = OPS['scatter'](data, indices, updates, 0, mode)
    assert found.dtype == dtype
    wanted = data.double().numpy()
    for index, row in zip([0, 1, 0], updates.double().numpy()):
        wanted[index] = COMBINE[mode](wanted[index], row)
        if mode == 'div' and dtype == torch.int32:
            wanted[index] = np.trunc(wanted[index])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_update_of_an_index_twice_is_repeatable():
    """The last one stays; the document leaves open which."""
    found = OPS['scatter'](
        torch.zeros(3), torch.tensor([1, 1, 1]), torch.tensor([5.0, 6, 7]), 0, 'update'
    )
    assert found.tolist() == [0, 7, 0]


@pytest.mark.parametrize('name', ['scatter', 'scatter_along_axis'])
def test_negative_indices_end_with_ios17(name):
    data, index = torch.arange(4.0), torch.tensor([-1])
    new = torch.tensor([9.0])
    assert OPS[name](data, index, new, 0, 'update').tolist() == [0, 1, 2, 9]
    for validate in (False, True):
        with pytest.raises(Exception, match='out of bounds'):
            OPS[name](data, index, new, 0, 'update', validate)


@pytest.mark.parametrize('place', [[0, 3], [-1, 0], [2, 0], [0, -4]])
@pytest.mark.parametrize('validate', [None, False, True])
def test_a_place_beyond_is_never_another_one(place, validate):
    """(0, 3) of a 2 x 3 tensor is not (1, 0)."""
    x = torch.arange(6.0).reshape(2, 3)
    index = torch.tensor([place])
    if validate is None and place == [-1, 0]:
        assert OPS['gather_nd'](x, index).tolist() == [3]
        return
    with pytest.raises(Exception, match=r'out of (range|bounds|DATA)'):
        OPS['gather_nd'](x, index, 0, validate)
    with pytest.raises(Exception, match=r'out of (range|bounds|DATA)'):
        OPS['scatter_nd'](x, index, torch.ones(1), 'add', validate)


def test_places_beyond_in_a_file(tmp_path):
    def build(mb, x, i):
        return mb.scatter(data=x, indices=i, updates=np.float32([1]), mode='add')

    x = noise(3)
    path = save_mil(build, {'x': x, 'i': np.int32([0])}, tmp_path)
    loaded = load_program(path)
    with pytest.raises(ProgramError, match=r"'scatter'.*out of bounds"):
        loaded.predict({'x': x, 'i': np.int32([3])})


def test_shapes_and_modes_that_do_not_fit():
    data = torch.zeros(3, 2)
    with pytest.raises(ProgramError, match=r'\(2, 3\); allowed.*\(1, 2\)'):
        OPS['scatter'](data, torch.tensor([0]), torch.zeros(2, 3))
    with pytest.raises(ProgramError, match=r"'avg'.*update.*min"):
        OPS['scatter'](data, torch.tensor([0]), torch.zeros(1, 2), 0, 'avg')
    with pytest.raises(ProgramError, match='indices'):
        OPS['scatter_along_axis'](data, torch.zeros(1, 1).long(), torch.zeros(1, 1))
    with pytest.raises(ProgramError, match='batch_dims 1'):
        OPS['gather_nd'](data, torch.zeros(2, 1).long(), 1)


@pytest.mark.parametrize('batch_dims', [0, 1, 2])
@pytest.mark.parametrize('depth', [0, 1, 2])
def test_gather_nd(batch_dims, depth):
    x = noise(2, 3, 4, 5)
    rng = np.random.default_rng(batch_dims + 3 * depth)
    batch, inner = x.shape[:batch_dims], x.shape[batch_dims:]
    shape = (*batch, 3, 2, depth)
    index = rng.integers(0, [inner[:depth] or 1], shape) if depth else np.zeros(shape, np.int64)
    wanted = np.empty((*shape[:-1], *inner[depth:]), np.float32)
    for place in np.ndindex(shape[:-1]):
        wanted[place] = x[(*place[:batch_dims], *index[place])]
    found = OPS['gather_nd'](torch.tensor(x), torch.tensor(index), batch_dims, False)
    assert np.array_equal(found.numpy(), wanted)


def test_no_indices():
    data = torch.ones(2, 3)
    none = torch.zeros(0, dtype=torch.int32)
    for name, index, new in (
        ('scatter', none, torch.zeros(0, 3)),
        ('scatter_along_axis', none.reshape(0, 3), torch.zeros(0, 3)),
        ('scatter_nd', none.reshape(0, 1), torch.zeros(0, 3)),
    ):
        assert torch.equal(OPS[name](data, index, new), data)
    assert OPS['gather_nd'](data, none.reshape(0, 1)).shape == (0, 3)


SLICES = [
    ([1, 0, 0], [3, 0, 0], None, [0, 1, 1], [0, 1, 1], [0, 0, 0]),
    ([-1, 4, 0], [0, 0, 3], [-1, -2, 2], [0, 0, 0], [0, 1, 0], [0, 0, 0]),
    ([2, -2, 0], [0, 0, 0], None, [0, 0, 1], [0, 0, 1], [1, 1, 0]),
    ([3, 2, 0], [1, 2, 3], None, [0, 0, 0], [0, 0, 0], [0, 0, 0]),
]


@pytest.mark.parametrize('case', range(len(SLICES)))
def test_slice_update(case):
    begin, end, stride, begin_mask, end_mask, squeeze = SLICES[case]
    wanted = DATA.copy()
    index = tuple(
        b if q else slice(None if bm else b, None if em else e, s)
        for b, e, s, bm, em, q in zip(begin, end, stride or [1] * 3, begin_mask, end_mask, squeeze)
    )
    update = noise(*wanted[index].shape)
    wanted[index] = update
    given = torch.tensor(DATA)
    found = OPS['slice_update'](
        given, torch.tensor(update), begin, end, stride, begin_mask, end_mask, squeeze
    )
    assert np.array_equal(found.numpy(), wanted)
    assert np.array_equal(given.numpy(), DATA)
    with pytest.raises(ProgramError, match='update has the shape'):
        OPS['slice_update'](
            given, torch.zeros(9, 9), begin, end, stride, begin_mask, end_mask, squeeze
        )


def test_slice_update_in_a_file(tmp_path):
    def build(mb, x, new):
        return mb.slice_update(x=x, update=new, begin=[0, 1, 0], end=[4, 3, 3])

    inputs = {'x': DATA, 'new': NEW}
    loaded = load_program(save_mil(build, inputs, tmp_path, 'iOS18'))
    (got,) = loaded.predict(inputs).values()
    wanted = DATA.copy()
    wanted[:, 1:3] = NEW
    check(got, wanted)
    both = torch.tensor(np.stack([DATA, DATA + 1]))
    new = torch.tensor(np.stack([NEW, NEW + 2]))
    (batch,) = loaded.predict_batch({'x': both, 'new': new}).values()
    check(batch[0].numpy(), wanted)
    wanted = DATA + 1
    wanted[:, 1:3] = NEW + 2
    check(batch[1].numpy(), wanted)
