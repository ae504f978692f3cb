"""A recipe that is fitted to a folder."""

import pytest
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from mmpretrain_mobileone_ext.commands.training.finetune import finetune_config, read_folder
from mmpretrain_mobileone_ext.commands.training.finetune.settings import has_switch, length
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.utils.config import MIM

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


@pytest.mark.slow
@pytest.mark.parametrize('recipe', [IMAGENET, DIGITS])
def test_both_data_sets_read_the_folder(recipe, folder, tmp_path):
    before = Config.fromfile(recipe)
    cfg = finetune_config(before, folder, tmp_path)
    for split, samples in (('train', folder.train), ('val', folder.test), ('test', folder.test)):
        given = dict(cfg[f'{split}_dataloader'].dataset, pipeline=[])
        dataset = DATASETS.build(given)
        assert [
            (info['img_path'], info['gt_label'])
            for info in map(dataset.get_data_info, range(len(dataset)))
        ] == [(f'{folder.root}/{path}', label) for path, label in samples]
        assert dataset.metainfo['classes'] == ['cat', 'dog', 'eel']
        assert (
            cfg[f'{split}_dataloader'].dataset.pipeline
            == before[f'{split}_dataloader'].dataset.pipeline
        )
    assert Config.fromfile(recipe).pretty_text == before.pretty_text


@pytest.mark.parametrize('recipe', [IMAGENET, DIGITS])
def test_classes_reach_head_preprocessor_and_scores(recipe, folder, tmp_path):
    cfg = finetune_config(Config.fromfile(recipe), folder, tmp_path)
    assert cfg.model.head.num_classes == 3
    assert cfg.data_preprocessor.num_classes == 3
    # top-5 of three classes is no score
    assert cfg.model.head.topk == (1,)
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1,)


def test_all_that_counts_classes_is_set(folder, tmp_path):
    recipe = Config.fromfile(DIGITS)
    recipe.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000)
    recipe.model.head.topk = (5,)
    recipe.data_preprocessor.batch_augments = dict(augments=[dict(type='Mixup', alpha=0.8)])
    recipe.val_evaluator = [
        dict(type='Accuracy', topk=5),
        dict(type='SingleLabelMetric', num_classes=1000),
    ]
    recipe.test_evaluator = dict(type='Accuracy', topk=(5, 2))
    recipe.default_hooks.checkpoint.save_best = 'accuracy/top5'
    recipe.param_scheduler = dict(type='ReduceOnPlateauLR', monitor='accuracy/top5')
    cfg = finetune_config(recipe, folder, tmp_path)
    assert cfg.model.head.num_classes == cfg.model.head.loss.num_classes == 3
    assert cfg.model.head.topk == (1,)
    assert cfg.data_preprocessor.num_classes == 3
    assert cfg.val_evaluator[0].topk == (1,)
    assert cfg.val_evaluator[1].num_classes == 3
    assert cfg.test_evaluator.topk == (2,)
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'
    assert cfg.param_scheduler.monitor == 'accuracy/top1'


def test_numbers_that_are_left_to_the_default_are_stated(folder, tmp_path):
    recipe = Config.fromfile(DIGITS)
    del recipe.model.head['num_classes']
    recipe.data_preprocessor = None
    recipe.model.data_preprocessor = dict(type='ClsDataPreprocessor')
    recipe.model.backbone.num_classes = -1
    cfg = finetune_config(recipe, folder, tmp_path)
    assert cfg.model.head.num_classes == 3
    assert cfg.model.data_preprocessor.num_classes == 3
    assert cfg.model.backbone.num_classes == -1
    recipe.model.head.type = 'ClsHead'  # takes none
    assert 'num_classes' not in finetune_config(recipe, folder, tmp_path).model.head


def wrapped(wrapper, **options):
    recipe = Config.fromfile(DIGITS)
    given = recipe.train_dataloader.dataset
    recipe.train_dataloader.dataset = dict(
        type=wrapper, **(options or dict(datasets=[given, given]))
    )
    if options:
        recipe.train_dataloader.dataset.dataset = given
    return recipe


@pytest.mark.parametrize(
    ('wrapper', 'options', 'length'),
    [('RepeatDataset', dict(times=3), 36), ('ClassBalancedDataset', dict(oversample_thr=0.01), 12)],
)
def test_wrappers_stay(wrapper, options, length, folder, tmp_path):
    cfg = finetune_config(wrapped(wrapper, **options), folder, tmp_path)
    given = cfg.train_dataloader.dataset
    assert given.type == wrapper
    given.dataset.pipeline = []
    assert len(DATASETS.build(given)) == length


def test_one_folder_takes_the_place_of_several_data_sets(folder, tmp_path):
    recipe = wrapped('ConcatDataset')
    cfg = finetune_config(recipe, folder, tmp_path)
    assert cfg.train_dataloader.dataset.type == 'CustomDataset'
    recipe.train_dataloader.dataset.datasets[1] = dict(
        type='RepeatDataset', times=2, dataset=recipe.train_dataloader.dataset.datasets[0]
    )
    with pytest.raises(MobileOneExtError, match='train_dataloader: the parts of ConcatDataset'):
        finetune_config(recipe, folder, tmp_path)


def test_data_sets_that_no_folder_replaces(folder, tmp_path):
    recipe = wrapped('KFoldDataset', fold=0)
    with pytest.raises(MobileOneExtError, match='KFoldDataset splits'):
        finetune_config(recipe, folder, tmp_path)
    for steps, says in (
        ([], 'CustomDataset is empty'),
        ([dict(type='Resize', scale=32)], 'begins with Resize, where.*LoadImageFromFile'),
    ):
        recipe = Config.fromfile(DIGITS)
        recipe.val_dataloader.dataset.pipeline = steps
        with pytest.raises(MobileOneExtError, match=f'val_dataloader: .*{says}'):
            finetune_config(recipe, folder, tmp_path)


def test_the_run_ends_with_the_folded_file(folder, tmp_path):
    recipe = Config.fromfile(DIGITS)
    assert has_switch(recipe)
    before = recipe.custom_hooks
    recipe.custom_hooks = None
    assert not has_switch(recipe)
    (hook,) = finetune_config(recipe, folder, tmp_path).custom_hooks
    assert hook == dict(type='DeploySwitchHook', when=('val', 'after_train'))
    recipe.custom_hooks = before
    before[-1].when = ('test',)
    assert not has_switch(recipe)
    cfg = finetune_config(recipe, folder, tmp_path)
    assert len(cfg.custom_hooks) == len(before)
    assert cfg.custom_hooks[-1].when == ('test', 'after_train')


@pytest.mark.parametrize('given', [None, dict(save_last=False)])
def test_the_last_checkpoint_must_be_saved(given, folder, tmp_path):
    recipe = Config.fromfile(DIGITS)
    recipe.default_hooks.checkpoint = given
    with pytest.raises(MobileOneExtError, match='does not save the last'):
        finetune_config(recipe, folder, tmp_path)


def test_iterations_are_no_epochs(folder, tmp_path):
    recipe = Config.fromfile(DIGITS)
    assert length(recipe) == '25 epochs'
    recipe.train_cfg = dict(by_epoch=False, max_iters=700)
    assert length(finetune_config(recipe, folder, tmp_path)) == '700 iterations'
    with pytest.raises(MobileOneExtError, match=r'train_cfg\.max_iters=N'):
        finetune_config(recipe, folder, tmp_path, epochs=3)


def test_weights_frozen_stages_and_epochs(folder, tmp_path):
    cfg = finetune_config(
        Config.fromfile(IMAGENET), folder, tmp_path, weights='a.pth', frozen_stages=3, epochs=40
    )
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
    (schedule,) = cfg.param_scheduler
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
        finetune_config(Config.fromfile(DIGITS), folder, tmp_path, epochs=epochs)


def test_a_config_that_is_no_recipe_is_refused(folder, tmp_path):
    with pytest.raises(MobileOneExtError, match='lacks train_dataloader'):
        finetune_config(Config(dict(model={})), folder, tmp_path)
