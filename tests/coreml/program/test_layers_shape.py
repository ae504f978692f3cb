"""Shapes computed at run time, in both formats, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import relative_error, save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet

SHAPES = [(1, 4, 6, 5), (1, 4, 9, 7)]


class Shuffle(nn.Module):
    """Channels shuffled in two groups; the last row and column dropped."""

    def forward(self, x):
        batch, channels, height, width = x.size()
        y = x.view(batch, 2, channels // 2, height, width)
        y = y.transpose(1, 2).reshape(batch, channels, height, width)
        return y[:, :, : height - 1, : width - 1] * 2


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize(
    ('kind', 'wanted'),
    [
        ('mlprogram', {'shape', 'gather', 'reshape', 'slice_by_index'}),
        ('neuralnetwork', {'getShape', 'gather', 'reshapeDynamic', 'sliceDynamic'}),
    ],
)
def test_shapes_of_a_flexible_input(tmp_path, kind, wanted):
    net = Shuffle().eval()
    ct = quiet.coremltools()
    path = save_torch(
        net,
        tmp_path,
        torch.rand(SHAPES[0]),
        kind=kind,
        inputs=[ct.TensorType(name='x', shape=ct.EnumeratedShapes(SHAPES), dtype=np.float32)],
        outputs=[ct.TensorType(name='shuffled')],
    )
    loaded = load_program(path)
    found = {op.attributes.get('layer', op.type) for op in loaded.program.operations}
    assert wanted <= found
    for shape in SHAPES:
        x = torch.randn(3, *shape[1:])
        single = loaded.predict({'x': x[:1]})['shuffled']
        assert relative_error(single, net(x[:1])) == 0
        batch = loaded.predict_batch({'x': x})['shuffled']
        assert relative_error(batch, net(x)) == 0
        assert relative_error(batch, net(x.flip(1))) > 0.1
