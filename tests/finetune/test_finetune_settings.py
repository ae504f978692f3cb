"""A recipe that is fitted to a folder."""
import pytest
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from mmpretrain_mobileone_ext.config_scope import MIM
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.finetune import finetune_config, read_folder

CONFIGS = MIM / 'configs'
IMAGENET = CONFIGS / 'finetune/mobileone-s0_finetune_image-folder.py'
DIGITS = CONFIGS / 'digits/mobileone-tiny_bs64_digits.py'


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'my data'
    for name in ('cat', 'dog', 'eel'):
        (root / name).mkdir(parents=True)
        for index in range(5):
            (root / name / f'{index} of 5.png').write_bytes(b'')
    return read_folder(root)


@pytest.mark.parametrize('recipe', [IMAGENET, DIGITS])
def test_both_data_sets_read_the_folder(recipe, folder, tmp_path):
    before = Config.fromfile(recipe)
    cfg = finetune_config(before, folder, tmp_path)
    for split, samples in (('train', folder.train), ('val', folder.test),
                           ('test', folder.test)):
        given = dict(cfg[f'{split}_dataloader'].dataset, pipeline=[])
        dataset = DATASETS.build(given)
        assert [(info['img_path'], info['gt_label'])
                for info in map(dataset.get_data_info, range(len(dataset)))
                ] == [(f'{folder.root}/{path}', label)
                      for path, label in samples]
        assert dataset.metainfo['classes'] == ['cat', 'dog', 'eel']
        assert cfg[f'{split}_dataloader'].dataset.pipeline == \
            before[f'{split}_dataloader'].dataset.pipeline
    assert Config.fromfile(recipe).pretty_text == before.pretty_text


@pytest.mark.parametrize('recipe', [IMAGENET, DIGITS])
def test_classes_reach_head_preprocessor_and_scores(recipe, folder, tmp_path):
    cfg = finetune_config(Config.fromfile(recipe), folder, tmp_path)
    assert cfg.model.head.num_classes == 3
    assert cfg.data_preprocessor.num_classes == 3
    # top-5 of three classes is no score
    assert cfg.model.head.topk == (1, )
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1, )


def test_weights_frozen_stages_and_epochs(folder, tmp_path):
    cfg = finetune_config(Config.fromfile(IMAGENET), folder, tmp_path,
                          weights='a.pth', frozen_stages=3, epochs=40)
    assert cfg.load_from == 'a.pth'
    assert cfg.model.backbone.frozen_stages == 3
    assert cfg.train_cfg.max_epochs == 40
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end) == (0, 2)
    assert (cosine.begin, cosine.end) == (2, 40)


def test_schedules_shrink_to_few_epochs(folder, tmp_path):
    cfg = finetune_config(Config.fromfile(DIGITS), folder, tmp_path, epochs=2)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end) == (1, 1, 2)


@pytest.mark.parametrize('recipe', [IMAGENET, DIGITS])
def test_one_epoch_is_warm_up_alone(recipe, folder, tmp_path):
    cfg = finetune_config(Config.fromfile(recipe), folder, tmp_path, epochs=1)
    schedule, = cfg.param_scheduler
    assert (schedule.type, schedule.begin, schedule.end) == ('LinearLR', 0, 1)


def test_what_is_not_given_stays(folder, tmp_path):
    recipe = Config.fromfile(IMAGENET)
    cfg = finetune_config(recipe, folder, tmp_path)
    assert cfg.load_from == recipe.load_from
    assert cfg.model.backbone == recipe.model.backbone
    assert cfg.param_scheduler == recipe.param_scheduler


@pytest.mark.parametrize('epochs', [0, -1])
def test_no_epochs_are_refused(epochs, folder, tmp_path):
    with pytest.raises(MobileOneExtError, match='must be 1 or more'):
        finetune_config(Config.fromfile(DIGITS), folder, tmp_path,
                        epochs=epochs)


def test_a_config_that_is_no_recipe_is_refused(folder, tmp_path):
    with pytest.raises(MobileOneExtError, match='lacks train_dataloader'):
        finetune_config(Config(dict(model={})), folder, tmp_path)
