"""Flexible inputs as files declare them, and what they accept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from runtime_kit import image_input, relative_error, save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import Feature
from mmpretrain_mobileone_ext.errors import ProgramError

SIZES = [(8, 6), (4, 10)]
FORMATS = ('mlprogram', 'neuralnetwork')


class Halved(nn.Module):
    def forward(self, x):
        return x * 0.5


def shape_of(kind):
    ct = quiet.coremltools()
    if kind == 'sizes':
        return ct.EnumeratedShapes([(1, 3, *s) for s in SIZES])
    side = ct.RangeDim(4, 12, default=8)
    return ct.Shape((1, 3, side, ct.RangeDim(6, 10, default=6)))


def saved(folder, shape, kind, as_image):
    ct = quiet.coremltools()
    taken = (
        image_input(shape)
        if as_image
        else ct.TensorType(name='image', shape=shape, dtype=np.float32)
    )
    path = save_torch(Halved().eval(), folder, torch.rand(1, 3, 8, 6), kind=kind, inputs=[taken])
    return load_program(path)


def values(size, as_image):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    tensor = torch.tensor(array).permute(2, 0, 1)[None].float()
    others = [Image.fromarray(array), array] if as_image else [tensor.numpy()]
    return [tensor, *others]


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('as_image', [True, False])
@pytest.mark.parametrize('flexible', ['sizes', 'range'])
def test_every_allowed_size_and_no_other(tmp_path, kind, as_image, flexible):
    loaded = saved(tmp_path, shape_of(flexible), kind, as_image)
    (image,) = loaded.program.inputs
    assert image.is_flexible
    assert image.shape == (1, 3, 8, 6)
    assert loaded.image_size == (8, 6)
    name = loaded.program.outputs[0].name
    for size in SIZES:
        for value in values(size, as_image):
            found = loaded.predict({'image': value})[name]
            assert relative_error(found, values(size, False)[0] / 2) == 0
        batch = torch.rand(3, 3, *size)
        found = loaded.predict_batch({'image': batch})[name]
        assert relative_error(found, batch / 2) == 0
    allowed = (
        r'one of \(1, 3, 8, 6\), \(1, 3, 4, 10\)'
        if flexible == 'sizes'
        else r'\(1, 3, 4 to 12, 6 to 10\)'
    )
    for value in values((4, 11), as_image):
        with pytest.raises(ProgramError, match='takes ' + allowed):
            loaded.predict({'image': value})
    with pytest.raises(ProgramError, match='takes ' + allowed):
        loaded.predict_batch({'image': torch.rand(2, 3, 4, 11)})


@pytest.mark.parametrize('kind', FORMATS)
def test_shapes_are_listed_with_the_default_first(tmp_path, kind):
    ct = quiet.coremltools()
    shapes = [(1, 3, *size) for size in SIZES]
    flexible = ct.EnumeratedShapes(shapes, default=shapes[1])
    for as_image in (True, False):
        loaded = saved(tmp_path, flexible, kind, as_image)
        (image,) = loaded.program.inputs
        assert image.shapes == (shapes[1], shapes[0])


def test_an_unbounded_range(tmp_path):
    ct = quiet.coremltools()
    shape = ct.Shape((1, 3, ct.RangeDim(2, -1, default=8), 6))
    loaded = saved(tmp_path, shape, 'neuralnetwork', False)
    (image,) = loaded.program.inputs
    assert image.ranges[2] == (2, -1)
    assert image.allowed == '(1, 3, 2 to any, 6)'
    assert image.allows((1, 3, 10**6, 6))
    assert not image.allows((1, 3, 1, 6))


def test_a_fixed_input_is_not_flexible():
    fixed = Feature('x', 'tensor', (1, 2))
    assert (fixed.shapes, fixed.is_flexible) == (((1, 2),), False)
    assert fixed.allowed == 'exactly (1, 2)'
    assert [fixed.allows(s) for s in ((1, 2), (2, 1), (1,))] == [True, False, False]
    assert Feature('label', 'string').shapes == ()
