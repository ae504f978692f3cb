"""Feature extractors of classifiers, detectors and bare backbones."""

from __future__ import annotations

import copy

import pytest
import torch
from export_kit import TINY, model_cfg, randomize, save
from format_kit import OTHER, SIZE, convert, error, load, network, oracle, perturbed, pixels
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel, ImgDataPreprocessor
from mmpretrain.registry import MODELS
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.errors import CheckpointError, ExportError
from mmpretrain_mobileone_ext.export.network import (
    feature_maps,
    feature_network,
    feature_preprocessing,
    prepare_features,
)
from mmpretrain_mobileone_ext.export.source import load_source

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
SHAPE = (1, 3, *SIZE)


class Segmentation(BaseDataPreprocessor):
    """Parts and behaviour of mmsegmentation's ``SegDataPreProcessor``."""

    def __init__(self, mean=None, std=None, bgr_to_rgb=False, test_cfg=None):
        super().__init__()
        self.channel_conversion = bgr_to_rgb
        self.test_cfg = test_cfg
        self._enable_normalize = mean is not None
        if mean is not None:
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
            self.register_buffer('std', torch.tensor(std).view(-1, 1, 1))

    def forward(self, data, training=False):
        (image,) = data['inputs']
        image = image[[2, 1, 0]] if self.channel_conversion else image
        image = image.float()
        if self._enable_normalize:
            image = (image - self.mean) / self.std
        return dict(inputs=image[None])


class Detector(BaseModel):
    """Backbone and data_preprocessor of a detector; the rest is not run."""

    def __init__(self, backbone, preprocessor):
        super().__init__(preprocessor)
        self.backbone = backbone
        self.bbox_head = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise AssertionError('a detector needs more than the backbone')


def backbone(out_indices=(0, 1)):
    cfg = dict(TINY, out_indices=out_indices)
    return randomize(MODELS.build(cfg))


def detector(preprocessor):
    return Detector(backbone(), preprocessor).eval()


def test_names_and_shapes():
    for asked, names in (((0, 1), [0, 1]), ((-1,), [1]), ((-2, 1), [0, 1])):
        found = feature_maps(backbone(asked), SHAPE)
        assert list(found) == [f'feature_{i}' for i in names]
    first, last = feature_maps(network(), SHAPE).values()
    assert (first.shape, last.shape) == ((1, 16, 16, 16), (1, 32, 8, 8))


class Stages(nn.Module):
    """Maps of chosen stages, under settings of other families."""

    def __init__(self, outputs, **settings):
        super().__init__()
        self.outputs = outputs
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.outputs(x)


def two(x):
    return [x[:, :1], x[:, :, ::2, ::2]]


@pytest.mark.parametrize(
    ('settings', 'names'),
    [
        ({}, ['feature_0', 'feature_1']),
        (dict(out_indices=(4, 2)), ['feature_2', 'feature_4']),
        (dict(out_indices=(-1, 0), num_stages=4), ['feature_0', 'feature_3']),
        (dict(out_indices=(-2, -1), stages=[0] * 5), ['feature_3', 'feature_4']),
    ],
)
def test_indices_of_other_backbones(settings, names):
    found = feature_maps(Stages(two, **settings), SHAPE)
    assert list(found) == names


@pytest.mark.parametrize(
    ('outputs', 'settings', 'message'),
    [
        (two, dict(out_indices=(0, -1)), r'out_indices=\(0, -1\) and returns 2'),
        (two, dict(out_indices=3), 'out_indices=3 and returns 2 feature maps'),
        (lambda x: x.mean((2, 3)), {}, r'Stages returns \(1, 3\); .*N, C, H, W'),
        (lambda x: {'a': x}, {}, 'Stages returns dict'),
        (lambda x: (x, [x]), {}, r'returns \[\(1, 3, 32, 32\), \[\(1, 3'),
        (lambda x: x.view(2, 3), {}, 'does not run on images'),
    ],
)
def test_backbones_without_named_maps(outputs, settings, message):
    with pytest.raises(ExportError, match=message):
        feature_maps(Stages(outputs, **settings), SHAPE)


PREPROCESSORS = [
    (dict(mean=MEAN, std=STD, bgr_to_rgb=True), True),
    (dict(mean=MEAN, std=STD), False),
    ({}, False),
]


@pytest.mark.parametrize('kind', [ImgDataPreprocessor, Segmentation])
@pytest.mark.parametrize(('options', 'flips'), PREPROCESSORS)
def test_detectors_and_segmenters(tmp_path, kind, options, flips):
    model = detector(kind(**options))
    pre = feature_preprocessing(model, 3, SIZE, None)
    assert (pre.flips, pre.layout) == (flips, 'RGB' if flips else 'BGR')
    loaded = load(
        model, tmp_path / 'm.mlpackage', outputs='features', extra_sizes=(OTHER,), order=None
    )
    before = [op.type for op in loaded.program.operations][:2]
    assert before == (['add', 'conv'] if options else ['conv', 'relu'])
    for size in (SIZE, OTHER):
        batch = pixels(3, size)
        given = batch.flip(1) if flips else batch
        found = loaded.predict_batch({'image': given.float()})
        shift, scale = (
            torch.tensor(options.get(k, d)).view(1, -1, 1, 1)
            for k, d in (('mean', [0.0]), ('std', [1.0]))
        )
        with torch.no_grad():
            maps = model.backbone((given - shift) / scale)
        wanted = {f'feature_{i}': m.double() for i, m in enumerate(maps)}
        assert error(found, wanted) < 1e-5
        reference = feature_network(model, tuple(wanted))(batch)
        assert error(reference, wanted) < 1e-6


def test_a_bare_backbone(tmp_path):
    net = backbone()
    before = copy.deepcopy(net.state_dict())
    loaded = load(net, tmp_path / 'm.mlmodel', outputs='features', input='tensor', order=None)
    x = torch.randn(2, 3, *SIZE)
    found = loaded.predict_batch({'image': x})
    wanted = feature_network(net, ('feature_0', 'feature_1'))(x)
    assert error(found, {k: m.double() for k, m in wanted.items()}) < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.deploy


def test_the_reference_is_torch_and_notices_a_weight():
    net, batch = network(), pixels(3)
    wanted = oracle(net, batch, features=True)
    found = feature_network(net, tuple(wanted))(batch)
    assert error(found, wanted) < 1e-5
    moved = feature_network(perturbed(net), tuple(wanted))(batch)
    assert error(moved, wanted) > 1e-3


def test_folds_are_in_the_graph_and_not_in_the_model():
    net = network()
    pre = feature_preprocessing(net, 3, SIZE, 'BGR')
    prepared = prepare_features(net, pre)
    assert prepared.features == ('feature_0', 'feature_1')
    assert (prepared.scale, prepared.notes) == (None, ())
    assert prepared.net.deploy
    assert not net.backbone.deploy
    batch = pixels(2)
    with torch.no_grad():
        maps = prepared.graph(pre.mean)(batch.flip(1).float())
    assert error(dict(zip(prepared.features, maps)), oracle(net, batch, features=True)) < 1e-5


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        (ImgDataPreprocessor(pad_size_divisor=20), 'pad_size_divisor=20'),
        (Segmentation(test_cfg=dict(size_divisor=20)), 'pad_size_divisor=20'),
        (Segmentation(test_cfg=dict(size=(64, 64))), r'pads images to \(64, 64\)'),
        (ImgDataPreprocessor(MEAN, [0.0, 1.0, 1.0]), 'must be positive'),
        (nn.Identity(), 'data_preprocessor is a Identity'),
    ],
)
def test_what_cannot_be_baked_in(module, message):
    model = nn.Module()
    model.data_preprocessor = module
    with pytest.raises(ExportError, match=message):
        feature_preprocessing(model, 3, SIZE, None)


@pytest.mark.parametrize(
    'given', [Segmentation(test_cfg=dict(size=SIZE, size_divisor=16)), BaseDataPreprocessor()]
)
def test_padding_that_pads_nothing_is_fine(given):
    model = nn.Module()
    model.data_preprocessor = given
    pre = feature_preprocessing(model, 3, SIZE, 'RGB')
    assert (pre.mean, pre.std, pre.layout) == ((0.0,) * 3, (1.0,) * 3, 'RGB')


@pytest.mark.parametrize('of', ['classifier', 'backbone', 'other head'])
@pytest.mark.parametrize('deploy', [False, True])
def test_a_checkpoint_needs_to_fit_the_backbone_only(tmp_path, of, deploy):
    net = network()
    written = net.switch_to_deploy() if deploy else net
    if of == 'backbone':
        written = written.backbone
    path = save(written, tmp_path / 'c.pth')
    head = dict(type='LinearClsHead', num_classes=7, in_channels=32)
    cfg = model_cfg(
        dict(TINY, out_indices=(0, 1)), **({} if of == 'classifier' else dict(head=head))
    )
    source = load_source(Config(dict(model=cfg)), path, outputs='features')
    batch = pixels(2)
    found = feature_network(source.model, ('feature_0', 'feature_1'))(batch)
    assert error(found, oracle(net, batch, features=True)) < 1e-4


def test_a_config_that_is_a_backbone(tmp_path):
    net = backbone()
    for state in (net, net.switch_to_deploy()):
        path = save(state, tmp_path / 'c.pth')
        cfg = Config(dict(model=dict(TINY, out_indices=(0, 1))))
        source = load_source(cfg, path, outputs='features')
        with torch.no_grad():
            x = torch.randn(SHAPE)
            for found, wanted in zip(source.model(x), net(x)):
                assert torch.allclose(found, wanted, atol=1e-4)


def test_a_checkpoint_that_does_not_fit_the_backbone(tmp_path):
    state = network().state_dict()
    state.pop('backbone.stage1.0.branch_scale.conv.weight')
    path = tmp_path / 'c.pth'
    torch.save(dict(state_dict=state), path)
    cfg = Config(dict(model=model_cfg()))
    with pytest.raises(CheckpointError, match=r'branch_scale\.conv\.weight'):
        load_source(cfg, path, outputs='features')


def test_a_saved_backbone_serves_any_module(tmp_path):
    """A detector with the weights of a classifier's checkpoint."""
    net = network()
    path = save(net, tmp_path / 'c.pth')
    other = detector(ImgDataPreprocessor(MEAN, STD, bgr_to_rgb=True))
    source = load_source(perturbed(other), path, outputs='features')
    out = convert(source.model, tmp_path / 'm.mlpackage', outputs='features')
    batch = pixels(2)
    found = load_program(out).predict_batch({'image': batch.flip(1).float()})
    assert error(found, oracle(net, batch, features=True)) < 1e-5
