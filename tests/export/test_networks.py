"""Whole networks, saved and read back, against torch.

The relative error is that of the probabilities' norm; heads are random and steep, so that an error
anywhere in the network moves them.
"""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import build_activation_layer
from mmpretrain.registry import MODELS
from runtime_kit import (
    LABELS,
    classifier_config,
    image_input,
    randomize,
    relative_error,
    save_torch,
)
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet

SHAPE = (1, 3, 64, 64)
BIAS = [-2.1, -2.0, -1.8]

# Every op kind of MobileOne s4 (squeeze-and-excite in the last stages) at a fraction of its depth
# and width.
TINY_MOBILEONE = {
    'type': 'MobileOne',
    'arch': {
        'num_blocks': [1, 2, 2, 1],
        'width_factor': [0.5, 0.5, 0.5, 0.5],
        'num_conv_branches': [2, 1, 1, 1],
        'num_se_blocks': [0, 0, 2, 1],
    },
}
TINY_REPVGG = {
    'type': 'RepVGG',
    'arch': {
        'num_blocks': [1, 2, 1, 1],
        'width_factor': [0.25, 0.25, 0.25, 0.25],
        'group_layer_map': None,
        'se_cfg': None,
    },
    'out_indices': (3,),
}
NETWORKS = {
    'mobileone': TINY_MOBILEONE,
    'mobileone deployed': {**TINY_MOBILEONE, 'deploy': True},
    'mobilenet v2': {'type': 'MobileNetV2', 'widen_factor': 0.5},
    'mobilenet v3 small': {'type': 'MobileNetV3', 'arch': 'small'},
    'mobilenet v3 large': {'type': 'MobileNetV3', 'arch': 'large'},
    'shufflenet v2': {'type': 'ShuffleNetV2', 'widen_factor': 0.5},
    'efficientnet b0': {'type': 'EfficientNet', 'arch': 'b0'},
    'resnet 18': {'type': 'ResNet', 'depth': 18},
    'resnet 50': {'type': 'ResNet', 'depth': 50, 'base_channels': 16},
    'repvgg': TINY_REPVGG,
    'repvgg deployed': {**TINY_REPVGG, 'deploy': True},
}

#: The others take seconds each.
QUICK = ('mobileone', 'repvgg', 'resnet 18', 'shufflenet v2')


class Network(nn.Module):
    """Backbone, pooling and a steep head: (N, 3, H, W) to (N, 5)."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        self.neck = MODELS.build({'type': 'GlobalAveragePooling'})
        self.backbone.eval()
        with torch.no_grad():
            width = self.features(torch.rand(SHAPE)).shape[1]
        self.head = nn.Linear(width, len(LABELS))

    def features(self, x):
        return self.neck(self.backbone(x))[-1]

    def forward(self, x):
        return torch.softmax(self.head(self.features(x)), 1)


def steepen(network, pixels):
    """Scale the head so that the logits of the examples spread by 3."""
    with torch.no_grad():
        logits = network.head(network.features(pixels))
        network.head.weight.mul_(3 / logits.std())
        network.head.bias.mul_(0.1)


def normalized(pixels):
    return pixels / 58 + torch.tensor(BIAS).reshape(3, 1, 1)


def compare(network, folder, exported=False, **options):
    """Convert, save, read back; relative error of three images."""
    pixels = torch.randint(0, 256, (3, *SHAPE[1:])).float()
    steepen(network, normalized(pixels))
    path = save_torch(
        network,
        folder,
        torch.rand(SHAPE),
        exported=exported,
        inputs=[image_input(SHAPE, scale=1 / 58, bias=BIAS)],
        classifier_config=classifier_config(),
        **options,
    )
    loaded = load_program(path)
    outputs = loaded.predict_batch({'image': pixels})
    got = outputs[loaded.program.predicted_probabilities_name]
    with torch.no_grad():
        wanted = network(normalized(pixels))
    assert torch.equal(outputs['classLabel'], wanted.argmax(1))
    return relative_error(got, wanted)


# Tracing warns of the Python numbers in mmcv's adaptive padding.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4')
@pytest.mark.parametrize(
    'exported', [pytest.param(False, marks=pytest.mark.slow), True], ids=['traced', 'exported']
)
@pytest.mark.parametrize(
    'name', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_package_equals_torch(name, exported, tmp_path):
    torch.manual_seed(0)
    network = randomize(Network(NETWORKS[name]))
    assert compare(network, tmp_path, exported) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('exported', [False, True], ids=['traced', 'exported'])
@pytest.mark.parametrize('name', ['mobileone', 'mobileone deployed'])
def test_mobileone_in_every_format(name, exported, tmp_path):
    torch.manual_seed(0)
    network = randomize(Network(NETWORKS[name]))
    targets = quiet.coremltools().target
    assert compare(network, tmp_path, exported, kind='neuralnetwork') <= 1e-5
    for target in (targets.iOS15, targets.iOS26):
        assert compare(network, tmp_path, exported, minimum_deployment_target=target) <= 1e-5


ACTIVATIONS = [
    {'type': 'ReLU'},
    {'type': 'LeakyReLU', 'negative_slope': 0.2},
    {'type': 'PReLU'},
    {'type': 'PReLU', 'num_parameters': 6},
    {'type': 'RReLU'},
    {'type': 'ReLU6'},
    {'type': 'ELU', 'alpha': 0.7},
    {'type': 'Sigmoid'},
    {'type': 'Tanh'},
    {'type': 'SiLU'},
    {'type': 'Clamp'},
    {'type': 'Clip', 'min': -0.5, 'max': 2.0},
    {'type': 'GELU'},
    {'type': 'GELU', 'approximate': 'tanh'},
    {'type': 'HSigmoid', 'bias': 1.0, 'divisor': 2.0},
    {'type': 'HSwish'},
    {'type': 'Swish'},
]
UNREGISTERED = [
    nn.Mish(),
    nn.Softplus(),
    nn.Softsign(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Hardtanh(-0.4, 0.6),
    nn.SELU(),
    nn.Tanhshrink(),
    nn.Threshold(0.1, 0.5),
]


class Activations(nn.Module):
    """Every activation on the same features, one output each."""

    def __init__(self, exported=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        with torch.no_grad():
            self.conv.weight.mul_(9)
        configs = [c for c in ACTIVATIONS if not (exported and 'approximate' in c)]
        registered = [build_activation_layer(dict(c)) for c in configs]
        self.acts = nn.ModuleList([*registered, *UNREGISTERED])

    def forward(self, x):
        features = self.conv(x)
        # Some of mmcv's activations work in place.
        return tuple(act(features + 0.0) for act in self.acts)


FORMATS = [
    ('mlprogram', 'iOS15', 1e-5),
    ('mlprogram', 'iOS16', 1e-5),
    ('mlprogram', 'iOS17', 1e-5),
    ('mlprogram', 'iOS26', 1e-5),
    ('neuralnetwork', None, 1e-5),
]


@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4')
@pytest.mark.parametrize('exported', [False, True], ids=['traced', 'exported'])
@pytest.mark.parametrize(('kind', 'target', 'tolerance'), FORMATS)
def test_activations(kind, target, tolerance, exported, tmp_path):
    torch.manual_seed(0)
    network = randomize(Activations(exported))
    x = torch.randn(2, 3, 5, 5)
    ct = quiet.coremltools()
    names = [f'out{i}' for i in range(len(network.acts))]
    options = {}
    if target:
        options['minimum_deployment_target'] = ct.target[target]
    path = save_torch(
        network,
        tmp_path,
        x[:1],
        kind=kind,
        exported=exported,
        inputs=[ct.TensorType(name='x', shape=(1, 3, 5, 5))],
        outputs=[ct.TensorType(name=name) for name in names],
        **options,
    )
    got = load_program(path).predict_batch({'x': x})
    with torch.no_grad():
        wanted = network(x)
    for name, act, result in zip(names, network.acts, wanted):
        assert relative_error(got[name], result) <= tolerance, act


class Exotic(nn.Module):
    """Layers a neural network file spells differently from MIL."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1, groups=1)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.layer = nn.LayerNorm(12)
        self.group = nn.GroupNorm(2, 4)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        x = self.norm(self.instance(self.up(x)))
        x = self.layer(self.group(x))
        x = torch.relu(x) + nn.functional.max_pool2d(x, 3, 1, 1)
        low = nn.functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True)
        tall = nn.functional.interpolate(low, scale_factor=2, mode='nearest')
        wide = nn.functional.interpolate(low, scale_factor=2, mode='bilinear', align_corners=False)
        a, b = torch.chunk(tall + wide, 2, 1)
        x = torch.cat([a * 2 - b, torch.maximum(a, b) / 3], 1)
        x = nn.functional.pad(x, (1, 0, 2, 1), 'reflect')
        x = nn.functional.pixel_shuffle(x, 2)[:, :, 1:, ::2]
        x = x.permute(0, 2, 3, 1).flatten(2)[..., :8] @ self.mix
        spread = x.std(1, keepdim=True, unbiased=False) + x.abs().amax()
        return (x / spread).pow(2).sum(1).sqrt().clamp(max=9)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('exported', [False, True], ids=['traced', 'exported'])
@pytest.mark.parametrize('kind', ['mlprogram', 'neuralnetwork'])
def test_other_layers(kind, exported, tmp_path):
    torch.manual_seed(0)
    network = randomize(Exotic())
    x = torch.randn(1, 3, 6, 6)
    path = save_torch(
        network,
        tmp_path,
        x,
        kind=kind,
        exported=exported,
        inputs=[quiet.coremltools().TensorType(name='x', shape=x.shape)],
    )
    (got,) = load_program(path).predict({'x': x}).values()
    with torch.no_grad():
        wanted = network(x)
    assert relative_error(got, wanted) <= 1e-5


class ChannelShuffle(nn.Module):
    """Shapes computed from the input's, as flexible programs do."""

    def forward(self, x):
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2)
        return x.reshape(n, c, h, w)[:, 1:, : h - 1]


def test_flexible_shapes_run_at_their_default(tmp_path):
    ct = quiet.coremltools()
    x = torch.rand(2, 6, 8, 5)
    sizes = ct.EnumeratedShapes([(1, 6, 8, 5), (1, 6, 4, 9)])
    path = save_torch(
        ChannelShuffle(), tmp_path, x[:1], inputs=[ct.TensorType(name='x', shape=sizes)]
    )
    loaded = load_program(path)
    assert 'shape' in loaded.program.count_operations()
    (got,) = loaded.predict_batch({'x': x}).values()
    assert torch.equal(got, ChannelShuffle()(x))
