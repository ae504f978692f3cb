"""Forms as functions: what is given to a file, and what it is called."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from export_kit import build, switched
from torch import nn

from mmpretrain_mobileone_ext.coreml.program.graph import Feature, Operation, Program
from mmpretrain_mobileone_ext.errors import ProgramError
from mmpretrain_mobileone_ext.export.data import Images
from mmpretrain_mobileone_ext.report.forms import Feed, compression_of, precision_of, torch_form

IMAGES = Images('noise', (1, 3, 32, 32))


def op(kind, dtype='fp16', **compressed):
    return Operation(
        kind, kind, {}, (f'{kind}_out',), (dtype,), {'compressed': compressed} if compressed else {}
    )


def program(*operations, kind='image', **metadata):
    feature = Feature('image', kind, (1, 3, 4, 4), 'fp32')
    return Program(
        Path('a.mlpackage'), 'mlprogram', (feature,), (), operations, None, '', '', metadata, 7
    )


START = (op('add', 'fp32'), op('cast'))


@pytest.mark.parametrize(
    ('operations', 'wanted'),
    [
        ((*START, op('conv'), op('cast', 'fp32'), op('classify', 'fp32')), 'fp16'),
        ((op('add', 'fp32'), op('conv', 'fp32'), op('softmax', 'fp32')), 'fp32'),
        ((*START, op('conv'), op('cast', 'fp32'), op('conv', 'fp32')), 'mixed'),
        ((op('add', 'fp32'), op('conv', 'fp32'), op('cast'), op('conv')), 'mixed'),
        ((op('argmax', 'int32'),), 'fp32'),
    ],
)
def test_precision_is_that_of_the_work_between_the_ends(operations, wanted):
    assert precision_of(program(*operations)) == wanted


def test_compression_is_named_by_the_exporter_or_the_operations():
    stored = op('conv', weight='constexpr_lut_to_dense')
    assert compression_of(program(op('conv'))) == ()
    assert compression_of(program(stored)) == ('palettized',)
    assert compression_of(program(stored, compression='palettize4')) == ('palettize4',)
    # What a file says must be in it.
    assert compression_of(program(op('conv'), compression='int8')) == ()
    assert compression_of(program(op('conv', weight='constexpr_new'))) == ('constexpr_new',)


def test_the_feed_turns_and_normalizes_as_the_file_takes_it():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    mean, std = (1.0, 2.0, 3.0), (2.0, 4.0, 8.0)
    feed = Feed(True, mean, std)
    image = feed.inputs(program(), pixels)['image']
    assert torch.equal(image, pixels.flip(1).float())
    given = feed.inputs(program(kind='tensor', input_layout='normalized tensor'), pixels)['image']
    for channel in range(3):
        wanted = (pixels[0, 2 - channel].float() - mean[channel]) / std[channel]
        assert torch.equal(given[0, channel], wanted)
    plain = feed.inputs(program(kind='tensor', input_layout='tensor'), pixels)
    assert torch.equal(plain['image'], image)
    with pytest.raises(ProgramError, match='does not say'):
        feed.inputs(program(kind='tensor'), pixels)


def test_torch_forms_are_named_by_their_blocks():
    model = build()
    branches = torch_form(model, 'a.pth', IMAGES)
    folded = torch_form(switched(build()), 'b.pth', IMAGES)
    assert branches.row.form == 'branches (torch, fp32)'
    assert folded.row.form == 'folded (torch, fp32)'
    assert (branches.tolerance, folded.tolerance) == (None, 'fold-float32')
    pixels = next(IMAGES.chunks())[0]
    assert torch.allclose(branches.predict(pixels), folded.predict(pixels), atol=1e-5)


class Plain(nn.Module):
    """Three ATen calls: add, mul, softmax; the reshape is a view."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(7))

    def data_preprocessor(self, data, training):
        return data

    def forward(self, inputs, mode):
        x = inputs.float()
        x = ((x + 1) * 2).reshape(len(x), -1)[:, :4]
        return [SimpleNamespace(pred_score=row) for row in x.softmax(1)]


def test_what_computes_is_counted_views_are_not():
    form = torch_form(Plain(), 'c.pth', IMAGES, 'note')
    # To fp32, add, mul, softmax, and the stack of the results.
    assert form.row.ops == 5
    assert form.row.size_bytes == 28
    assert form.row.form == 'network (torch, fp32)'
    assert form.row.note == 'note'
