"""Runs in which a name stands for two labels are refused, by every door."""

import copy
import unicodedata

import numpy as np
import pytest
import torch
from helpers import assert_same_state, classifier_cfg, randomize_norms
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image
from toy_runner import toy_cfg

from mmpretrain_mobileone_ext.errors import CheckpointError, ClassNamesError
from mmpretrain_mobileone_ext.hooks import ClassNamesHook

NAMES = ('ant', 'bee', 'cow')
OTHERS = ('ivy', 'oak', 'yew')


def folders(root, names, count=4):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f'{i}.png')
    return root


def split(root, classes=None, **options):
    meta = {} if classes is None else dict(metainfo=dict(classes=list(classes)))
    return dict(
        type='CustomDataset',
        data_root='',
        data_prefix=str(root),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        **meta,
        **options,
    )


def checkpoint(path, classes, num_classes=3):
    torch.manual_seed(1)
    model = randomize_norms(MODELS.build(classifier_cfg(num_classes=num_classes)))
    meta = {} if classes is None else dict(dataset_meta=dict(classes=tuple(classes)))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def first_state(runner):
    """A dict that holds the state before the first batch, once it came."""
    state = {}

    def keep(*_, **__):
        if not state:
            state.update(copy.deepcopy(runner.model.state_dict()))

    runner.model.register_forward_pre_hook(keep)
    return state


@pytest.fixture
def run(tmp_path):
    """A Runner on folders; a data set that is not given has all three."""
    root = folders(tmp_path / 'all', NAMES)

    def build(**options):
        given = {s: options.pop(s, None) for s in ('train', 'val', 'test')}
        cfg = toy_cfg(tmp_path / 'work', **options)
        for name, data in given.items():
            cfg[f'{name}_dataloader'].dataset = data or split(root)
        return Runner.from_cfg(cfg)

    build.root = root
    return build


def test_every_runner_has_the_hook_once(run):
    for hooks in ([], [dict(type='ClassNamesHook')]):
        runner = run(custom_hooks=hooks)
        assert sum(isinstance(h, ClassNamesHook) for h in runner.hooks) == 1


def test_what_agrees_trains_and_tests(run, tmp_path):
    path = checkpoint(tmp_path / 'a.pth', NAMES)
    run(load_from=path).test()
    run(load_from=checkpoint(tmp_path / 'b.pth', None)).test()
    run(load_from=path, epochs=1).train()


@pytest.mark.parametrize(
    'kind', ['DeployableClassifier', pytest.param('ImageClassifier', marks=pytest.mark.slow)]
)
def test_names_in_another_order_than_the_folders(kind, run, tmp_path):
    wrong = split(run.root, ('cow', 'bee', 'ant'))
    for runner, call in (
        (run(train=wrong), 'train'),
        (run(val=wrong), 'val'),
        (
            run(
                test=wrong,
                model=classifier_cfg(kind),
                load_from=checkpoint(tmp_path / 'a.pth', ('cow', 'bee', 'ant')),
            ),
            'test',
        ),
    ):
        with pytest.raises(ClassNamesError, match='another order') as caught:
            getattr(runner, call)()
        assert "('cow', 'bee', 'ant')" in str(caught.value)
        assert "('ant', 'bee', 'cow')" in str(caught.value)


@pytest.mark.parametrize(
    ('lacking', 'classes'),
    [
        ('ant', NAMES),
        ('cow', None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [('bee', NAMES), ('cow', NAMES), ('ant', None), ('bee', None)]
        ),
    ],
)
def test_a_split_that_lacks_a_folder(lacking, classes, run, tmp_path):
    """Without names, the number of folders is what can be known."""
    rest = [n for n in NAMES if n != lacking]
    data = split(folders(tmp_path / 'rest', rest))
    runner = run(test=data, load_from=checkpoint(tmp_path / 'a.pth', classes))
    with pytest.raises(ClassNamesError) as caught:
        runner.test()
    assert f"('{rest[0]}', '{rest[1]}')" in str(caught.value)
    with pytest.raises(ClassNamesError, match=f"'{lacking}' missing"):
        run(val=data).train()


@pytest.mark.slow
def test_an_empty_folder_is_enough(run, tmp_path):
    data = folders(tmp_path / 'rest', NAMES[1:])
    (data / NAMES[0]).mkdir()
    run(test=split(data), load_from=checkpoint(tmp_path / 'a.pth', NAMES)).test()


@pytest.mark.slow
@pytest.mark.parametrize(
    'wrap',
    [
        lambda d, _: dict(type='RepeatDataset', times=2, dataset=d),
        lambda d, _: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=d),
        lambda d, right: dict(type='ConcatDataset', datasets=[right, d], ignore_keys=['classes']),
    ],
)
def test_wrappers_are_looked_into(wrap, run, tmp_path):
    rest = split(folders(tmp_path / 'rest', NAMES[1:]))
    with pytest.raises(ClassNamesError, match="'ant' missing"):
        run(val=wrap(rest, split(run.root))).train()


@pytest.mark.slow
def test_an_image_list_has_its_own_order(run, tmp_path):
    listed = tmp_path / 'images.txt'
    listed.write_text('cow/0.png 0\nbee/0.png 1\nant/0.png 2\n')
    data = split(run.root, ('cow', 'bee', 'ant'), ann_file=str(listed))
    path = checkpoint(tmp_path / 'a.pth', ('cow', 'bee', 'ant'))
    run(test=data, load_from=path).test()
    with pytest.raises(ClassNamesError, match='another order'):
        run(test=data, load_from=checkpoint(tmp_path / 'b.pth', NAMES)).test()


@pytest.mark.slow
def test_numbers_of_wordnet_are_called_by_words(run, tmp_path):
    numbers = ('n01440764', 'n01443537', 'n01484850')
    root = folders(tmp_path / 'imagenet', numbers)
    for data, known in (
        (split(root, NAMES), NAMES),
        (split(root), NAMES),
        (split(root, NAMES), numbers),
    ):
        run(test=data, load_from=checkpoint(tmp_path / 'a.pth', known)).test()


def test_folders_in_another_unicode_form(run, tmp_path):
    names = ('a', 'crème', 'd')
    root = folders(tmp_path / 'mac', [unicodedata.normalize('NFD', n) for n in names])
    path = checkpoint(tmp_path / 'a.pth', [unicodedata.normalize('NFC', n) for n in names])
    run(test=split(root), load_from=path).test()


def test_a_test_of_other_classes_is_refused(run, tmp_path):
    path = checkpoint(tmp_path / 'a.pth', OTHERS)
    for call in ('test', 'val'):
        with pytest.raises(ClassNamesError, match='other classes') as caught:
            getattr(run(load_from=path), call)()
        assert "'ivy'" in str(caught.value)
        assert "'ant'" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['DeployableClassifier', 'ImageClassifier'])
@pytest.mark.parametrize('names', [OTHERS, ('ant', 'bee', 'yew')])
def test_training_on_other_classes_starts_with_a_new_head(kind, names, run, tmp_path, monkeypatch):
    path = checkpoint(tmp_path / 'a.pth', names)
    runner = run(load_from=path, epochs=1, model=classifier_cfg(kind))
    told = []
    monkeypatch.setattr(
        type(runner.logger), 'warning', lambda self, text, *a, **k: told.append(text)
    )
    started = first_state(runner)
    runner.train()
    for key, old in torch.load(path)['state_dict'].items():
        same = torch.equal(started[key], old)
        assert same is not key.startswith('head.fc.'), key
    own = [t for t in told if 'ClassNamesHook' in str(t)]
    assert len(own) == 1
    assert 'new weights' in own[0]


@pytest.mark.parametrize('names', [NAMES, None])
def test_training_on_the_same_classes_keeps_the_head(names, run, tmp_path):
    path = checkpoint(tmp_path / 'a.pth', names)
    runner = run(load_from=path, epochs=1)
    started = first_state(runner)
    runner.train()
    assert_same_state(torch.load(path)['state_dict'], started)


def test_training_on_the_same_names_in_another_order_is_refused(run, tmp_path):
    path = checkpoint(tmp_path / 'a.pth', NAMES[::-1])
    with pytest.raises(ClassNamesError, match='another order'):
        run(load_from=path).train()


@pytest.mark.slow
def test_a_run_is_resumed_with_its_own_classes(run, tmp_path):
    run(epochs=1).train()
    saved = tmp_path / 'work/epoch_1.pth'
    run(epochs=2, load_from=str(saved), resume=True).train()
    other = split(folders(tmp_path / 'other', OTHERS))
    with pytest.raises(ClassNamesError, match='resumed with its own'):
        run(epochs=3, load_from=str(saved), resume=True, train=other, val=other).train()


@pytest.mark.slow
def test_a_new_head_is_trained_before_it_predicts(run, tmp_path):
    runner = run(
        load_from=checkpoint(tmp_path / 'a.pth', OTHERS),
        epochs=1,
        train_cfg=dict(by_epoch=True, max_epochs=0),
    )
    runner.train()
    with pytest.raises(CheckpointError, match='trained before'):
        runner.val_loop.run()


def test_models_that_classify_no_image_are_left_alone(run, tmp_path):
    wrong = split(run.root, NAMES[::-1])
    runner = run(test=wrong)
    hook = next(h for h in runner.hooks if isinstance(h, ClassNamesHook))
    runner.model = torch.nn.Linear(1, 1)
    runner._test_loop = runner.build_test_loop(runner._test_loop)
    hook.before_run(runner)
    hook.before_test(runner)
