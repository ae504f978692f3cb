"""Networks that are right for one input shape only do not get through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from format_kit import OTHER, convert, network
from torch import nn

from mmpretrain_mobileone_ext.coreml.convert import check_classify
from mmpretrain_mobileone_ext.coreml.front_end import check_shapes
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ExportError

SHAPES = ((1, 3, 32, 32), (1, 3, 48, 40), (3, 3, 32, 32), (3, 3, 48, 40))


class Pooled(nn.Module):
    """Good for every size and batch."""

    def forward(self, x):
        return x.mean((2, 3))


class Positions(Pooled):
    """Adds one value a pixel, as vision transformers do."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.rand(1, 1, 32, 32))

    def forward(self, x):
        return super().forward(x + self.values)


class SizeInPython(Pooled):
    """Right in torch at every size; its trace divides by the first one."""

    def forward(self, x):
        return x.sum((2, 3)) / (int(x.shape[2]) * int(x.shape[3]))


class BatchInPython(Pooled):
    """As ``SizeInPython``, by the number of images."""

    def forward(self, x):
        return super().forward(x) * int(x.shape[0])


class Cropped(Pooled):
    """Its trace keeps the corner that was the whole image."""

    def forward(self, x):
        height, width = int(x.shape[2]), int(x.shape[3])
        return super().forward(x[:, :, :height, :width])


# Tracing warns of the Python numbers, which are the point here.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (Positions, r'does not run on \(1, 3, 48, 40\) .*RuntimeError'),
        (
            SizeInPython,
            r'fixes its input to \(1, 3, 32, 32\) and fails on '
            r'\(1, 3, 48, 40\).*relative error',
        ),
        (BatchInPython, r'fails on \(3, 3, 32, 32\)'),
        (Cropped, r'fails on \(1, 3, 48, 40\)'),
    ],
)
def test_fixed_networks_are_named(kind, message):
    net = kind()
    traced = torch.jit.trace(net, torch.zeros(SHAPES[0]), check_trace=False)
    check_shapes(net, traced, SHAPES[:1])
    with torch.no_grad(), pytest.raises(ExportError, match=message):
        check_shapes(net, traced, SHAPES)


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_flexible_networks_pass():
    net = Pooled()
    check_shapes(net, torch.jit.trace(net, torch.zeros(SHAPES[0])), SHAPES)


class FixedBackbone(nn.Module):
    """A backbone around one of the above."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.last = kind()

    def forward(self, x):
        return (self.last(self.conv(x))[:, :, None, None],)


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_nothing_is_converted_for_a_fixed_network(tmp_path, suffix):
    net = FixedBackbone(SizeInPython).eval()
    options = dict(outputs='features', input='tensor')
    with pytest.raises(ExportError, match='fixes its input to'):
        convert(net, tmp_path / f'm{suffix}', extra_sizes=(OTHER,), **options)
    assert not list(tmp_path.iterdir())
    assert convert(net, tmp_path / f'm{suffix}', **options).exists()


def test_what_coremltools_cannot_do_for_several_sizes(tmp_path, monkeypatch):
    """Its own error, and the hint that one size may do."""
    ct = quiet.coremltools()

    def refuse(*_, **__):
        raise NotImplementedError('Dynamic padding')

    monkeypatch.setattr(ct, 'convert', refuse)
    with pytest.raises(
        ExportError,
        match=r'2 input shapes at once .*NotImpl'
        r'ementedError: Dynamic padding',
    ):
        convert(network(), tmp_path / 'm.mlmodel', extra_sizes=(OTHER,))
    with pytest.raises(ExportError, match=r'convert the network \(NotImpl'):
        convert(network(), tmp_path / 'm.mlmodel')


def flexible_softmax(labels):
    """A classifier whose probabilities (N, 4) have an unknown N."""
    with quiet.conversion() as ct:
        mil = ct.converters.mil.mil
        batch = mil.get_new_symbol()
        with mil.Function(
            {'x': mil.Builder.placeholder((batch, 4))}, opset_version=ct.target.iOS16
        ) as main:
            main.set_outputs([mil.Builder.softmax(x=main.inputs['x'], axis=1)])
        program = mil.Program()
        program.add_function('main', main)
        return ct.convert(
            program,
            convert_to='mlprogram',
            skip_model_load=True,
            minimum_deployment_target=ct.target.iOS16,
            inputs=[
                ct.TensorType(
                    name='x', dtype=np.float32, shape=ct.EnumeratedShapes([(1, 4), (4, 4)])
                )
            ],
            classifier_config=labels and ct.ClassifierConfig(labels),
        )


def test_a_classifier_that_no_device_compiles():
    """It is converted without complaint (apple/coremltools#2764)."""
    check_classify(flexible_softmax(None).get_spec())
    spec = flexible_softmax(list('abcd')).get_spec()
    assert len(spec.description.output) == 2
    with pytest.raises(ExportError, match='depends on the input shape'):
        check_classify(spec)
