"""A Core ML file in place of a network: what it serves, what it refuses."""

import copy

import numpy as np
import pytest
import torch
from export_kit import CLASSES, files, model_cfg, photos, write_config
from format_kit import convert, error, network, oracle, pixels
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.errors import CheckpointError, ClassNamesError

KINDS = ('DeployableClassifier', 'CoreMLClassifier')
NETWORK_ONLY = dict(
    extract_feat=lambda m, x: m.extract_feat(x),
    extract_backbone=lambda m, x: m.extract_feat(x, stage='backbone'),
    extract_feats=lambda m, x: m.extract_feats([x]),
    loss=lambda m, x: m.loss(x, [DataSample().set_gt_label(0)]),
    forward_loss=lambda m, x: m(x, [DataSample().set_gt_label(0)], mode='loss'),
    train=lambda m, x: m.train(),
    state_dict=lambda m, x: m.state_dict(),
    switch=lambda m, x: m.switch_to_deploy(),
    library_switch=lambda m, x: switch_to_deploy(m),
)
PARTS_ONLY = dict(
    predict=lambda m, x: m.predict(x),
    forward=lambda m, x: m(x),
    forward_predict=lambda m, x: m(x, mode='predict'),
    backbone=lambda m, x: m.backbone(x),
    stage=lambda m, x: m.backbone.stage0,
    weights=lambda m, x: m.head.fc.weight,
    neck=lambda m, x: m.neck((x,)),
    depth=lambda m, x: m.get_layer_depth('backbone.stage0.weight'),
)


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """A network, its Core ML file, and a config with a test split."""
    root = tmp_path_factory.mktemp('case')
    net = network()
    path = convert(net, root / 'm.mlpackage')
    config = write_config(
        root / 'c.py',
        photos(root, 2),
        extra="test_cfg = dict()\ntest_evaluator = dict(type='Accuracy')\n"
        "default_scope = 'mmpretrain'\n",
    )
    return dict(net=net, path=path, config=config, root=root)


def loaded(case, kind='DeployableClassifier'):
    model = MODELS.build(dict(model_cfg(), type=kind)).eval()
    load_checkpoint(model, str(case['path']))
    return model


@pytest.mark.parametrize(
    ('kind', 'name'),
    [*((k, n) for k in KINDS for n in NETWORK_ONLY), *((KINDS[0], n) for n in PARTS_ONLY)],
)
def test_what_needs_a_network_is_refused_by_name(kind, name, case):
    model = loaded(case, kind)
    with pytest.raises((CheckpointError, RuntimeError)) as caught:
        {**NETWORK_ONLY, **PARTS_ONLY}[name](model, torch.ones(1, 3, 32, 32))
    text = str(caught.value)
    assert '\n' not in text
    if name != 'forward_loss':
        assert isinstance(caught.value, CheckpointError)
        assert 'm.mlpackage' in text


@pytest.mark.parametrize('kind', KINDS)
def test_no_weights_are_left_to_be_read(kind, case):
    model = loaded(case, kind)
    assert list(model.parameters()) == []
    assert [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)] == []


@pytest.mark.parametrize('kind', KINDS)
def test_steps_answer_from_the_file(kind, case):
    model, batch = loaded(case, kind), pixels(3)
    wanted = oracle(case['net'], batch)
    for twin in (model, copy.deepcopy(model)):
        for step in (twin.test_step, twin.val_step):
            found = torch.stack([s.pred_score for s in step({'inputs': batch})])
            assert error({'classLabel_probs': found}, wanted) < 2e-2


def test_a_checkpoint_brings_the_network_back(case):
    model = loaded(case).double()
    net = case['net']
    model.load_state_dict(net.state_dict())
    assert model.artifact is None
    assert model.switch_to_deploy() is model
    assert not any(m.training for m in model.modules())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = model.float()(x), net(x)
    assert error({'scores': found}, {'scores': wanted}) < 1e-5


def test_a_checkpoint_that_does_not_fit_leaves_the_file(case):
    model = loaded(case)
    with pytest.raises(CheckpointError, match='does not fit'):
        model.load_state_dict({'backbone.nothing': torch.zeros(1)})
    assert model.artifact is not None
    with pytest.raises(CheckpointError, match=r'm\.mlpackage'):
        model.extract_feat(torch.ones(1, 3, 32, 32))


def test_inferencers(case):
    config = Config.fromfile(str(case['config']))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = ImageClassificationInferencer(config, pretrained=str(case['path']))(image)[0]
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    wanted = oracle(case['net'], batch)['classLabel_probs'][0]
    assert found['pred_class'] == CLASSES[int(wanted.argmax())]
    for kind in KINDS:
        config.model.type = kind
        extract = FeatureExtractor(config, pretrained=str(case['path']))
        with pytest.raises(CheckpointError, match=r'm\.mlpackage.*extract'):
            extract(image)


@pytest.mark.parametrize('kind', KINDS)
def test_labels_of_the_file_and_of_the_split(kind, case, tmp_path):
    cfg = Config.fromfile(str(case['config']))
    cfg.merge_from_dict(
        dict(
            load_from=str(case['path']),
            work_dir=str(tmp_path / 'run'),
            log_level='WARNING',
            experiment_name=f'in-place-{kind}',
        )
    )
    cfg.model.type = kind
    cfg.test_dataloader.update(num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    assert 'accuracy/top1' in Runner.from_cfg(copy.deepcopy(cfg)).test()
    less = photos(tmp_path, 1)
    for image in files(less)[:1]:
        image.unlink()
        image.parent.rmdir()
    cfg.test_dataloader.dataset.data_root = str(less)
    with pytest.raises(ClassNamesError, match="'ant' missing") as caught:
        Runner.from_cfg(cfg).test()
    assert 'the Core ML file' in str(caught.value)
