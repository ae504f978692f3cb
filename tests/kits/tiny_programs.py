"""Fixtures of the Core ML tests: one tiny classifier, saved to disk."""

from __future__ import annotations

import pytest
import torch
from runtime_kit import TinyNet, classifier_config, image_input, save_torch


@pytest.fixture(scope='session')
def tiny_net():
    torch.manual_seed(3)
    return TinyNet()


@pytest.fixture(scope='session')
def tiny_package(tiny_net, tmp_path_factory):
    """The tiny classifier: RGB image 24 x 16, scale and bias, fp32."""
    return save_torch(
        tiny_net,
        tmp_path_factory.mktemp('tiny'),
        torch.rand(1, 3, 24, 16),
        inputs=[image_input((1, 3, 24, 16), scale=1 / 58, bias=[-2.1, -2.0, -1.8])],
        classifier_config=classifier_config(),
    )


@pytest.fixture(scope='session')
def tiny_model(tiny_net, tmp_path_factory):
    """The tiny classifier as ``.mlmodel``, on a BGR image."""
    return save_torch(
        tiny_net,
        tmp_path_factory.mktemp('nn'),
        torch.rand(1, 3, 24, 16),
        kind='neuralnetwork',
        inputs=[image_input((1, 3, 24, 16), 'BGR', scale=1 / 58, bias=[-1, -2, -3])],
        classifier_config=classifier_config(),
    )
