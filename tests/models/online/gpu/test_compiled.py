"""Kernels compile for a GPU, which the interpreter, being Python, does not show.

No GPU is needed.
"""

import pytest

tl = pytest.importorskip('triton.language')

from triton_kit import compiled  # noqa: E402

from mmpretrain_mobileone_ext.models.online.gpu import (  # noqa: E402
    depthwise_fold_kernels,
    depthwise_input,
    depthwise_kernels,
    pointwise_fold_kernels,
    pointwise_kernels,
    sums,
)

TILE = dict(LANES=4, CHANNELS=32)
IMAGES = ('x', 'dy', 'active', 'out', 'dx', 'weight', 'bias')


def types(images, work, **others):
    """Of a kernel's arguments: images, what is computed in their work type, and others."""
    of_work = dict.fromkeys(('pivot', 'parts', 'table'), work)
    return {**dict.fromkeys(IMAGES, images), **of_work, 'runs': '*i32', **others}


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(
    ('images', 'work', 'dtype'),
    [('*fp32', '*fp32', 'float32'), ('*bf16', '*fp32', 'float32'), ('*fp64', '*fp64', 'float64')],
)
@pytest.mark.parametrize('name', ['moments', 'conv', 'weight_grad', 'input_grad'])
def test_depthwise_kernels(name, images, work, dtype, stride):
    options = dict(
        conv=dict(RELU=True), weight_grad=dict(MASKED=True), input_grad=dict(MASKED=True)
    ).get(name, {})
    kernel = getattr(depthwise_input if name == 'input_grad' else depthwise_kernels, name)
    options = dict(options, WORK=getattr(tl, dtype), STRIDE=stride, **TILE)
    assert_compiled(compiled(kernel, types(images, work), **options))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('name', ['direct_moments', 'direct_grads'])
def test_kernels_for_marked_branches(name, stride):
    options = dict(MASKED=True) if name == 'direct_grads' else {}
    given = types('*bf16', '*fp32', parts='*fp64', mean='*fp64', direct='*i1', kernels='*fp32')
    kernel = getattr(depthwise_kernels, name)
    assert_compiled(compiled(kernel, given, STRIDE=stride, **options, **TILE))


@pytest.mark.parametrize('stride', [1, 2])
def test_stencils(stride):
    given = dict(products='*fp64', sums='*fp64', table='*fp32')
    assert_compiled(compiled(depthwise_input.stencils, given, STRIDE=stride, CHANNELS=64))


@pytest.mark.parametrize('name', ['moments', 'conv', 'weight_grad', 'input_grad'])
def test_sizes_of_one_are_constants(name):
    """As Triton makes them."""
    options = dict(
        conv=dict(RELU=False),
        weight_grad=dict(MASKED=False, pivot=None),
        input_grad=dict(MASKED=False),
    ).get(name, {})
    kernel = getattr(depthwise_input if name == 'input_grad' else depthwise_kernels, name)
    sizes = ('H', 'W', 'C', 'HO', 'WO', 'NUM_ROWS', 'ROWS', 'COLUMNS', 'NUM_RUNS')
    ones = {size: 1 for size in sizes if size in kernel.arg_names}
    options = dict(options, WORK=tl.float32, STRIDE=1, **TILE, **ones)
    assert_compiled(compiled(kernel, types('*fp32', '*fp32'), **options))


@pytest.mark.parametrize(
    ('images', 'work', 'precision'),
    [('fp32', 'fp32', 'ieee'), ('bf16', 'fp32', 'tf32x3'), ('fp64', 'fp64', 'ieee')],
)
def test_products_over_pixels(images, work, precision):
    dtypes = dict(fp32=tl.float32, bf16=tl.bfloat16, fp64=tl.float64)
    given = dict(left=f'*{images}', right=f'*{images}', active=f'*{images}')
    given |= dict(left_pivot=f'*{work}', pivot=f'*{work}', parts='*fp64', sums='*fp64')
    options = dict(CHUNK=256, STEP=32, BLOCK=64, num_warps=8, WORK=dtypes[work])
    for more in (
        dict(SYMMETRIC=True, active=None, PRECISION=precision, DOT=dtypes[work]),
        dict(SYMMETRIC=False, left_pivot=None, PRECISION='ieee', DOT=dtypes[images]),
    ):
        assert_compiled(compiled(pointwise_kernels.outer, given, **options, **more))


@pytest.mark.parametrize('images', ['*fp32', '*bf16'])
def test_what_goes_around_products(images):
    tile = dict(PIXELS=32, CHANNELS=64, WORK=tl.float32)
    given = types(images, '*fp32', y=images, diagonal='*fp32', products='*fp64', sums='*fp64')
    assert_compiled(compiled(pointwise_kernels.finish, given, RELU=True, **tile))
    assert_compiled(compiled(pointwise_kernels.beside, given, **tile))
    assert_compiled(compiled(pointwise_kernels.below, given, BLOCK=32, WORK=tl.float32))
    assert_compiled(compiled(pointwise_kernels.mirror, dict(parts='*fp64', out='*fp64'), BLOCK=32))
    given = dict(x=images, mean='*fp32')
    assert_compiled(compiled(sums._sample_mean, given, BLOCK=64, CHANNELS=32))


@pytest.mark.parametrize('name', ['direct_moments', 'direct_grads'])
def test_pointwise_kernels_for_marked_branches(name):
    given = types('*bf16', '*fp32', parts='*fp64', mean='*fp64', direct='*i8')
    given['kernels'] = ('*fp32', None)
    options = dict(SIZES=(1, 0), PIXELS=32, CHANNELS=64, LINES=16)
    assert_compiled(compiled(getattr(pointwise_kernels, name), given, **options))


def of_folding(kernel):
    """Types of what a folding is given: everything is in float64 but parameters."""

    def kind(name):
        if name in ('kernels', 'grads_of_kernels'):
            return ('*fp32', '*fp32', None)
        if name.startswith(('gammas', 'betas', 'grads_of')):
            return ('*fp32', None, '*fp32')
        if name == 'direct':
            return '*i8'
        return '*fp32' if name in ('weight', 'bias', 'pivot', 'padded') else '*fp64'

    return {name: kind(name) for name in kernel.arg_names if not name.isupper()}


@pytest.mark.parametrize('name', ['depthwise_measure', 'depthwise_combine', 'depthwise_unfold'])
def test_depthwise_folding(name):
    options = dict(
        depthwise_measure=dict(SIZES=(3, 1, 0), EPS=(1e-5,) * 3, CANCELLATION=1e-3),
        depthwise_combine=dict(EPS=(1e-5,) * 3),
        depthwise_unfold=dict(SIZES=(3, 1, 0)),
    )[name]
    kernel = getattr(depthwise_fold_kernels, name)
    assert_compiled(compiled(kernel, of_folding(kernel), CHANNELS=8, **options))


@pytest.mark.parametrize('work', ['float32', 'float64'])
@pytest.mark.parametrize('name', ['measure', 'settle', 'rescale', 'combine', 'unfold', 'move'])
def test_pointwise_folding(name, work):
    product = dict(SIZES=(1, 1, 0), BLOCK=64, STEP=32, num_warps=8, WORK=getattr(tl, work))
    rows = dict(SIZES=(1, 1, 0), ROWS=16, COLUMNS=64)
    lines = dict(EPS=(1e-5,) * 3, BLOCK=64)
    options = dict(
        measure=product,
        settle=dict(CANCELLATION=1e-3, **lines),
        rescale=lines,
        combine=rows,
        unfold=rows,
        move=product,
    )[name]
    kernel = getattr(pointwise_fold_kernels, name)
    given = of_folding(kernel)
    if work == 'float32' and 'by_cov' in given:
        given['by_cov'] = '*fp32'
    assert_compiled(compiled(kernel, given, **options))


def assert_compiled(kernel):
    assert 'cubin' in kernel.asm
