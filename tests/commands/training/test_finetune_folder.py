"""Image folders as users have them."""

import pytest
from folder_kit import touch
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.commands.training.finetune import read_folder
from mmpretrain_mobileone_ext.errors import MobileOneExtError


def test_a_split_folder_keeps_its_split(tmp_path):
    touch(
        tmp_path,
        'train/b/1.png',
        'train/a/x/2.JPG',
        'train/a/notes.txt',
        'train/.cache/3.png',
        'test/b/4.png',
    )
    folder = read_folder(tmp_path)
    assert folder.classes == ('a', 'b')
    assert folder.train == (('train/a/x/2.JPG', 0), ('train/b/1.png', 1))
    assert folder.test == (('test/b/4.png', 1),)  # not 0: a has no test
    assert not folder.held_out


def test_val_serves_as_test(tmp_path):
    touch(tmp_path, 'train/a/1.png', 'train/b/1.png', 'val/a/2.png')
    assert read_folder(tmp_path).test == (('val/a/2.png', 0),)


@given(
    st.dictionaries(st.sampled_from('abcdef'), st.integers(4, 20), min_size=2),
    st.sampled_from([0.1, 0.2, 0.5]),
)
def test_what_is_set_aside_is_stratified_and_complete(tmp_path_factory, sizes, holdout):
    root = tmp_path_factory.mktemp('folder')
    for name, count in sizes.items():
        touch(root, *(f'{name}/{i}.png' for i in range(count)))
    folder = read_folder(root, holdout)
    assert folder == read_folder(root, holdout)
    assert not set(folder.train) & set(folder.test)
    assert len(folder.train) + len(folder.test) == sum(sizes.values())
    for label, name in enumerate(folder.classes):
        held = [p for p, other in folder.test if other == label]
        assert len(held) == max(1, round(holdout * sizes[name]))
        assert all(p.startswith(f'{name}/') for p in held)


def test_another_seed_sets_others_aside(tmp_path):
    touch(tmp_path, *(f'{c}/{i}.png' for c in 'ab' for i in range(50)))
    assert read_folder(tmp_path).test != read_folder(tmp_path, seed=1).test


@pytest.mark.parametrize(
    ('files', 'says'),
    [
        ([], 'at least two; it holds none'),
        (['a/1.png'], 'at least two; it holds a'),
        (['a/1.png', 'b/1.txt'], 'holds no image'),
        (['a/1.png', 'b/1.png', 'b/2.png'], 'none left to train on'),
        (['train/a/1.png', 'train/b/1.png'], 'neither test nor val'),
        (['train/a/1.png', 'train/b/1.png', 'test/c/1.png'], 'train lacks: c'),
    ],
)
def test_folders_that_cannot_be_learned_from(tmp_path, files, says):
    with pytest.raises(MobileOneExtError) as caught:
        read_folder(touch(tmp_path, *files))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_folder_and_no_share(tmp_path):
    with pytest.raises(MobileOneExtError, match='no such folder'):
        read_folder(tmp_path / 'x')
    with pytest.raises(MobileOneExtError, match='between 0 and 1'):
        read_folder(tmp_path, holdout=1)
