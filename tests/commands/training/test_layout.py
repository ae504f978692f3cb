"""Splits are told from classes by name and by what is in them."""

import pytest
from folder_kit import touch

from mmpretrain_mobileone_ext.commands.training.finetune import read_folder
from mmpretrain_mobileone_ext.errors import MobileOneExtError


def split(train, test, classes=('cat', 'dog')):
    return [f'{part}/{name}/1.png' for part in (train, test) for name in classes]


@pytest.mark.parametrize(
    ('train', 'test'),
    [
        ('Training', 'Testing'),
        ('train', 'valid'),
        ('TRAIN', 'Validation'),
        ('train_images', 'test_images'),
        ('images-train', 'images-val'),
        ('seg_train', 'seg_test'),
        ('train2017', 'val2017'),
        ('Train', 'dev'),
        ('training set', 'eval'),
        ('train.dataset', 'test.dataset'),
    ],
)
def test_spellings_of_splits(train, test, tmp_path):
    found = read_folder(touch(tmp_path, *split(train, test)))
    assert found.classes == ('cat', 'dog')
    assert found.train == ((f'{train}/cat/1.png', 0), (f'{train}/dog/1.png', 1))
    assert found.test == ((f'{test}/cat/1.png', 0), (f'{test}/dog/1.png', 1))
    assert not found.held_out


@pytest.mark.parametrize('name', ['train', 'Test', 'val', 'dev'])
def test_a_class_may_be_named_as_a_split(name, tmp_path):
    found = read_folder(
        touch(tmp_path, *(f'{c}/{i}.png' for c in ('car', name, 'plane') for i in range(3)))
    )
    assert set(found.classes) == {'car', name, 'plane'}
    assert found.held_out


@pytest.mark.parametrize(
    'name', ['trains', 'contest', 'valley', 'devil', 'evaluator', 'tester', 'restrain']
)
def test_a_name_that_only_looks_alike_is_a_class(name, tmp_path):
    found = read_folder(
        touch(tmp_path, *(f'{name}{c}/{i}.png' for c in ('', 'x') for i in range(2)))
    )
    assert found.classes == (name, f'{name}x')


def test_the_test_goes_before_val_and_others_are_listed(tmp_path):
    found = read_folder(
        touch(
            tmp_path,
            *split('train', 'Test'),
            'val/cat/3.png',
            'extra/5.png',
            'docs/x.txt',
            'README.md',
            'train/list.csv',
            '__MACOSX/._1.png',
        )
    )
    assert [p for p, _ in found.test] == ['Test/cat/1.png', 'Test/dog/1.png']
    assert dict(found.skipped) == {
        'README.md': 'in no class folder',
        '__MACOSX/': 'hidden',
        'docs/': 'beside train and Test, which are used',
        'extra/': 'beside train and Test, which are used',
        'train/list.csv': 'in no class folder',
        'val/': 'beside train and Test, which are used',
    }


@pytest.mark.parametrize(
    ('images', 'says'),
    [
        # Only names of splits, and images directly in them: classes or splits?
        (['Training/1.png', 'Testing/1.png'], "'Testing', 'Training', named as"),
        (['train/1.png', 'train/2.png'], "'train', named as splits"),
        # Class folders in one of them, beside what may be classes as well.
        (
            ['car/1.png', 'plane/1.png', 'train/steam/1.png'],
            "'train', which can be splits, beside 'car', 'plane'",
        ),
        (
            ['car/1.png', 'train/a/1.png', 'test/b/1.png'],
            "'test', 'train', which can be splits, beside 'car'",
        ),
        (
            ['car/1.png', 'test/a/1.png', 'test/b/1.png'],
            "'test', which can be splits, beside 'car'",
        ),
        # Halves of a pair.
        (['Training/a/1.png', 'Training/b/1.png'], 'neither test nor val'),
        (['Testing/a/1.png', 'val/b/1.png'], 'no folder train'),
        (['train/a/1.png', 'train/b/1.png', 'test/1.png'], 'neither test nor val'),
        ([*split('train', 'test'), 'Training/cat/1.png'], "'Training', 'train' for one split"),
        ([*split('train', 'valid'), 'val/cat/1.png'], "'val', 'valid' for one split"),
    ],
)
def test_what_can_be_either_is_refused(images, says, tmp_path):
    with pytest.raises(MobileOneExtError) as caught:
        read_folder(touch(tmp_path, *images))
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert '\n' not in str(caught.value)


def test_the_folder_of_one_class_is_told_from_one_of_classes(tmp_path):
    touch(
        tmp_path, 'photos/apples/1.png', 'photos/apples/2.png', 'photos/pears/1.png', 'lone/1.png'
    )
    words = r'apples holds 2 images and no folder, .*; did you mean .*/photos\?$'
    with pytest.raises(MobileOneExtError, match=words):
        read_folder(tmp_path / 'photos/apples')
    with pytest.raises(MobileOneExtError, match='holds 1 image and no folder'):
        read_folder(tmp_path / 'photos/pears')
    # The folder above holds two folders with images here too, but a hidden one is no class.
    touch(tmp_path, 'alone/.git/1.png', 'alone/only/1.png')
    with pytest.raises(MobileOneExtError, match=r'sort the images into such folders$'):
        read_folder(tmp_path / 'alone/only')
