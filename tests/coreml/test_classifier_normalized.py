"""CoreMLClassifier gives a file what it takes: pixels, or normalized ones."""

import numpy as np
import pytest
import torch
from export_kit import MEAN, STD, build, oracle, switched
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.coreml.metadata import write_metadata
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import LAYOUT, NORMALIZED
from mmpretrain_mobileone_ext.errors import ProgramError


class Softmax(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images, mode='tensor').softmax(1)


@pytest.fixture
def package(tmp_path):
    """A program of normalized images that says nothing about its input."""
    path = tmp_path / 'm.mlpackage'
    with quiet.conversion() as ct, torch.no_grad():
        traced = torch.jit.trace(Softmax(switched(build())).eval(), torch.zeros(1, 3, 32, 32))
        ct.convert(
            traced,
            inputs=[ct.TensorType('input', (1, 3, 32, 32), np.float32)],
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        ).save(str(path))
    return path


def predict(package, pixels, **options):
    """Probabilities of BGR pixels (N, H, W, 3), as a test pipeline yields."""
    model = MODELS.build(
        dict(
            type='CoreMLClassifier',
            path=str(package),
            data_preprocessor=dict(mean=list(MEAN), std=list(STD), to_rgb=True),
            **options,
        )
    )
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    samples = model.test_step(dict(inputs=batch))
    return torch.stack([s.pred_score for s in samples]).double()


def test_mean_and_std_are_applied_where_the_file_asks_for_it(package):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    wanted = oracle(switched(build()), list(pixels[..., ::-1].copy()))

    def error(found):
        return float((found - wanted).norm() / wanted.norm())

    with pytest.raises(ProgramError, match='does not say whether'):
        predict(package, pixels)
    assert error(predict(package, pixels, normalize=True)) < 1e-5
    assert error(predict(package, pixels, normalize=False)) > 0.05
    write_metadata(package, {LAYOUT: NORMALIZED}, {}, '')
    assert error(predict(package, pixels)) < 1e-5
    write_metadata(package, {LAYOUT: 'tensor'}, {}, '')
    assert error(predict(package, pixels)) > 0.05
