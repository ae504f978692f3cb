"""Architecture, image size, rate and memory that a run starts with."""

import pytest
from mmengine.config import Config

from mmpretrain_mobileone_ext.commands.training.finetune import starting
from mmpretrain_mobileone_ext.commands.training.finetune.starting import (
    fit_training,
    keep_decoded,
    rate_of,
    set_arch,
    set_image_size,
    start_from_nothing,
)
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.models.preprocessing import pipeline_size
from mmpretrain_mobileone_ext.utils.config import MIM

IMAGENET = MIM / 'configs/finetune/mobileone-s0_finetune_image-folder.py'
DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'


def recipe(path=IMAGENET, **changes):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(changes)
    return cfg


def pipeline(cfg, split):
    return cfg[f'{split}_dataloader'].dataset.pipeline


@pytest.mark.parametrize(('arch', 'channels'), [('s1', 1280), ('s2', 2048), ('s4', 2048)])
def test_a_mobileone_comes_with_its_head_and_its_own_weights(arch, channels):
    cfg = recipe()
    set_arch(cfg, arch)
    assert (cfg.model.backbone.arch, cfg.model.head.in_channels) == (arch, channels)
    assert f'/mobileone-{arch}_8xb32_in1k' in cfg.load_from
    assert cfg.model.backbone.frozen_stages == 1


def test_a_name_of_the_hub_comes_with_normalization_and_weights():
    cfg = recipe()
    set_arch(cfg, 'resnet18_8xb32_in1k')
    assert cfg.model.backbone.type == 'ResNet'
    assert 'resnet18' in cfg.load_from
    assert cfg.data_preprocessor.to_rgb
    assert pipeline_size(pipeline(cfg, 'test')) == (224, 224)


def test_a_network_that_nobody_knows():
    with pytest.raises(MobileOneExtError, match=r'--arch s9 is none of s0, s1.*list_models'):
        set_arch(recipe(), 's9')
    with pytest.raises(MobileOneExtError, match='such as resnet18'):
        set_arch(recipe(), 'resnet18')
    with pytest.raises(MobileOneExtError, match='trains a ResNet, not a ConfigurableMobileOne'):
        set_arch(recipe(**{'model.backbone.type': 'ResNet'}), 's1')


def test_an_image_size_reaches_crops_and_margins_of_every_split():
    cfg = recipe()
    set_image_size(cfg, 112)
    assert pipeline(cfg, 'train')[1].scale == 112
    assert pipeline(cfg, 'train')[1].crop_ratio_range == (0.16, 1.0)
    for split in ('val', 'test'):
        _, edge, crop, _ = pipeline(cfg, split)
        assert (edge.scale, crop.crop_size) == (128, 112)
    cfg = recipe(DIGITS)
    set_image_size(cfg, 64)
    _, resize, crop, _ = pipeline(cfg, 'train')
    assert (resize.scale, crop.crop_size, crop.padding) == (64, 64, 6)
    with pytest.raises(MobileOneExtError, match='--image-size is 4; allowed: an integer >= 16'):
        set_image_size(cfg, 4)


def test_torchvisions_scale_is_a_share_and_stays():
    cfg = recipe()
    pipeline(cfg, 'train')[1] = dict(
        type='torchvision/RandomResizedCrop', size=224, scale=(0.08, 1.0)
    )
    set_image_size(cfg, 112)
    step = pipeline(cfg, 'train')[1]
    assert (step['size'], step['scale']) == (112, (0.08, 1.0))


def fitted(path, images=10_000, lr=None, epochs=None, **changes):
    cfg = recipe(path, **changes)
    before = bool(Config.fromfile(path).get('load_from'))
    fit_training(cfg, images, 10, tuned_before=before, lr=lr, epochs=epochs)
    return cfg


def rate(cfg):
    return cfg.optim_wrapper.optimizer.lr


def head_factor(cfg):
    keys = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    return keys.get('head', {}).get('lr_mult', 1)


@pytest.mark.parametrize(
    ('path', 'load_from', 'wanted', 'head'),
    [
        (IMAGENET, 'a.pth', 0.01, 10),  # a tenth for what is trained, all of it for the head
        (IMAGENET, None, 0.1, 1),
        (DIGITS, None, 0.1, 1),
        (DIGITS, 'a.pth', 0.01, 10),
    ],
)
def test_a_rate_fits_the_weights_it_starts_from(path, load_from, wanted, head):
    cfg = fitted(path, load_from=load_from)
    assert rate(cfg) == pytest.approx(wanted)
    assert head_factor(cfg) == pytest.approx(head)


def test_a_given_rate_is_kept_and_a_wrong_one_refused():
    assert rate(fitted(IMAGENET, lr=0.5)) == 0.5
    for wrong in (0, -1, float('nan')):
        with pytest.raises(MobileOneExtError, match='--lr'):
            fitted(IMAGENET, lr=wrong)
    assert rate_of(fitted(IMAGENET, lr=0.5)) == 'learning rate 0.5 (head 5)'


def test_few_images_get_smaller_batches_smaller_steps_and_more_of_them():
    cfg = fitted(IMAGENET, images=240, load_from=None)
    assert cfg.train_dataloader.batch_size == 16
    assert rate(cfg) == pytest.approx(0.1 * 16 / 64)
    assert cfg.train_cfg.max_epochs == 40  # of 15 iterations
    assert cfg.param_scheduler[-1].end == 40
    assert fitted(IMAGENET, images=240, load_from=None, epochs=7).train_cfg.max_epochs == 20
    assert fitted(IMAGENET, images=240).train_cfg.max_epochs == 20
    assert fitted(IMAGENET, images=100).train_cfg.max_epochs == 29  # of 7 iterations
    many = fitted(IMAGENET, images=100_000, load_from=None)
    assert (many.train_dataloader.batch_size, many.train_cfg.max_epochs) == (64, 20)


def test_averages_follow_the_number_of_iterations():
    momentum = {
        n: fitted(IMAGENET, images=n, epochs=20).custom_hooks[0].momentum for n in (100, 10_000)
    }
    assert momentum[100] == pytest.approx(10 / (7 * 20))
    assert momentum[10_000] == 0.05


def test_every_run_is_watched_and_logged_some_times_an_epoch():
    cfg = fitted(IMAGENET, images=240)
    (watch,) = [h for h in cfg.custom_hooks if h.type == 'DivergenceHook']
    assert watch.floor == pytest.approx(2.3)  # ln 10
    assert cfg.default_hooks.logger.interval == 3
    fit_training(cfg, 240, 10, tuned_before=True)
    assert len([h for h in cfg.custom_hooks if h.type == 'DivergenceHook']) == 1


def test_random_weights_freeze_nothing():
    cfg = recipe()
    start_from_nothing(cfg)
    assert cfg.load_from is None
    assert 'frozen_stages' not in cfg.model.backbone


@pytest.fixture
def room(monkeypatch):
    def set_free(count, gpu=False):
        monkeypatch.setattr(starting, 'free_bytes', lambda device: count)
        monkeypatch.setattr(starting.torch.cuda, 'is_available', lambda: gpu)

    return set_free


def test_decoded_images_are_kept_where_they_fit(room):
    needed = round(300 * 3 * 16 / 9 * 448**2)
    room(4 * needed)
    cfg = recipe()
    assert 'decoded once, to 448 pixels or less' in keep_decoded(cfg, 300)
    first = pipeline(cfg, 'train')[0]
    assert (first.short_edge, first.keep_bytes) == (448, needed)
    assert cfg.train_dataloader.num_workers == 0
    assert pipeline(cfg, 'test') == pipeline(recipe(), 'test')
    room(4 * needed - 4)
    cfg = recipe()
    assert 'decoded each epoch' in keep_decoded(cfg, 300)
    assert cfg.train_dataloader == recipe().train_dataloader
    room(None)
    assert 'unknown free memory' in keep_decoded(cfg, 300)


def test_beside_a_gpu_every_worker_has_its_own(room):
    needed = round(300 * 3 * 16 / 9 * 448**2)
    cfg = recipe()
    room(2 * 4 * needed - 8, gpu=True)
    assert 'decoded each epoch' in keep_decoded(cfg, 300)
    room(2 * 4 * needed, gpu=True)
    assert 'decoded once' in keep_decoded(cfg, 300)
    assert cfg.train_dataloader.num_workers == 2


def test_a_crop_of_the_whole_image_is_no_crop_of_a_small_one(room):
    room(10**12)
    cfg = recipe()
    pipeline(cfg, 'train')[1] = dict(type='RandomCrop', crop_size=224)
    assert 'decoded each epoch' in keep_decoded(cfg, 300)
    assert pipeline(cfg, 'train')[0].type == 'LoadImageFromFile'
