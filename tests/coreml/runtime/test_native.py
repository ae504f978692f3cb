"""Apple's runtime behind our interface, against a stand-in for it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from runtime_kit import (
    SIZE,
    TinyNet,
    classifier_config,
    image_input,
    photo,
    planar,
    relative_error,
    save_torch,
)

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ProgramError


@pytest.mark.skipif(sys.platform == 'darwin', reason='Core ML is present')
def test_needs_macos(tiny_package):
    with pytest.raises(ProgramError, match=r"macOS.*backend 'reference'"):
        load_program(tiny_package, backend='coreml')


class FakeModel:
    """Answers as the documentation of ``MLModel.predict`` says."""

    def __init__(self, path, compute_units):
        self.path, self.units = path, compute_units
        self.seen = []

    def predict(self, inputs):
        self.seen.append(inputs['image'])
        assert inputs['image'].mode == 'RGB'
        return load_program(self.path).predict(inputs)


def test_against_documented_interface(tiny_package, monkeypatch):
    loaded = load_program(tiny_package)
    models = quiet.coremltools().models
    monkeypatch.setattr(models, 'MLModel', FakeModel)
    monkeypatch.setattr('mmpretrain_mobileone_ext.coreml.runtime.apple.sys.platform', 'darwin')
    native = load_program(tiny_package, backend='coreml')
    pixels = torch.cat([planar(photo(seed=i)) for i in range(2)])
    assert native.predict({'image': photo()}) == loaded.predict({'image': photo()})
    got = native.predict_batch({'image': pixels})
    wanted = loaded.predict_batch({'image': pixels})
    assert torch.equal(got['classLabel'], wanted['classLabel'])
    assert relative_error(got['classLabel_probs'], wanted['classLabel_probs']) < 1e-6
    seen = native._model.seen[0]
    assert np.array_equal(np.asarray(seen), photo())


class FakeArrayModel(FakeModel):
    """The same, for an array as input."""

    def predict(self, inputs):
        self.seen.append(inputs['x'].shape)
        return load_program(self.path).predict(inputs)


def test_with_flexible_shapes(tmp_path, monkeypatch):
    """Declared batches go in as one array, other samples alone."""
    ct, net = quiet.coremltools(), TinyNet()
    shapes = ct.EnumeratedShapes([(1, 3, *SIZE), (2, 3, *SIZE)])
    path = save_torch(
        net,
        tmp_path,
        torch.rand(1, 3, *SIZE),
        inputs=[ct.TensorType(name='x', shape=shapes, dtype=np.float32)],
        outputs=[ct.TensorType(name='scores', dtype=np.float32)],
    )
    monkeypatch.setattr(ct.models, 'MLModel', FakeArrayModel)
    monkeypatch.setattr('mmpretrain_mobileone_ext.coreml.runtime.apple.sys.platform', 'darwin')
    native = load_program(path, backend='coreml')
    x = torch.randn(5, 3, *SIZE)
    got = native.predict_batch({'x': x})['scores']
    assert native._model.seen == [(2, 3, *SIZE)] * 2 + [(1, 3, *SIZE)]
    with torch.no_grad():
        assert relative_error(got, net(x)) < 1e-6


def test_with_image_sizes(tmp_path, monkeypatch):
    ct = quiet.coremltools()
    shapes = ct.EnumeratedShapes([(1, 3, 16, 16), (1, 3, *SIZE)])
    path = save_torch(
        TinyNet(),
        tmp_path,
        torch.rand(1, 3, 16, 16),
        inputs=[image_input(shapes)],
        classifier_config=classifier_config(),
    )
    monkeypatch.setattr(ct.models, 'MLModel', FakeModel)
    monkeypatch.setattr('mmpretrain_mobileone_ext.coreml.runtime.apple.sys.platform', 'darwin')
    native = load_program(path, backend='coreml')
    assert native.predict({'image': photo()}) == load_program(path).predict({'image': photo()})
    with pytest.raises(ProgramError, match='takes one of'):
        native.predict({'image': photo()[1:]})
