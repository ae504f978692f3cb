"""Kernels compile for a GPU, which the interpreter, being Python, does not show.

No GPU is needed. Nothing is left to local memory ("spilled"), which would be slow.
"""

import pytest

tl = pytest.importorskip('triton.language')

from triton_kit import compiled  # noqa: E402

from mmpretrain_mobileone_ext.models.online.gpu import depthwise_input, depthwise_kernels  # noqa: E402

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


def assert_compiled(kernel):
    assert '.local' not in kernel.asm['ptx']
    assert 'cubin' in kernel.asm
