"""Names of classes, compared: order, subsets, Unicode forms, wrappers."""

import unicodedata
from types import SimpleNamespace

import pytest

from mmpretrain_mobileone_ext.checkpoints.class_names import (
    ClassNames,
    are_other_classes,
    check_consistent,
    check_related,
    checkpoint_names,
    data_set_names,
)
from mmpretrain_mobileone_ext.errors import ClassNamesError

WORDNET = ('n01440764', 'n01443537', 'n01484850')


def lists(*names):
    return [ClassNames(tuple(n), f'list {i}') for i, n in enumerate(names)]


def consistent(*names):
    check_consistent(lists(*names), ClassNamesError)


@pytest.mark.parametrize(
    'names',
    [
        [],
        ['abc'],
        ['abc', 'abc'],
        [('tench', 'fish', 'shark'), WORDNET],
        [('crane', 'x', 'crane'), ('crane', 'x', 'crane')],
        [('crane', 'x', 'crane'), ('bird', 'x', 'crane')],
        [('T-shirt', 'bag'), ('tee', 'bag')],
        [
            (unicodedata.normalize('NFC', 'crème'), 'eclair'),
            (unicodedata.normalize('NFD', 'crème'), 'eclair'),
        ],
    ],
)
def test_what_agrees(names):
    consistent(*names)


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        (['abc', 'acb'], "the same names in another order; 'b' is label 1 there"),
        (['abc', 'ab'], "'c' missing in list 1"),
        (['bc', 'abc'], "'a' missing in list 0; 'b' is label 0"),
        (['abc', 'bcd'], 'the same name for different labels'),
        (['abc', 'xyz', 'cba'], 'another order'),
        ([('crane', 'x', 'crane'), ('x', 'crane', 'y')], 'different labels'),
    ],
)
def test_what_does_not(names, said):
    with pytest.raises(ClassNamesError) as caught:
        consistent(*names)
    text = str(caught.value)
    assert said in text
    assert '\n' not in text
    assert text.count('list ') >= 2


def test_folders_sorted_by_another_form_are_in_another_order():
    words = ['fa', 'éa']
    composed = sorted(unicodedata.normalize('NFC', w) for w in words)
    apart = sorted(unicodedata.normalize('NFD', w) for w in words)
    with pytest.raises(ClassNamesError, match='another order'):
        consistent(composed, apart)


@pytest.mark.parametrize(
    'pair', [('caf\u00e9', 'cafe\u0301'), ('\u212b', '\u00c5'), ('\uac00', '\u1100\u1161')]
)
def test_two_forms_of_one_name_are_no_two_classes(pair):
    with pytest.raises(ClassNamesError, match='two Unicode forms') as caught:
        consistent(('dog', *pair))
    assert all(ascii(name) in str(caught.value) for name in pair)


def test_long_lists_stay_short():
    names = [f'class {i}' for i in range(1000)]
    with pytest.raises(ClassNamesError, match='990 more') as caught:
        consistent(names, names[::-1])
    assert len(str(caught.value)) < 800


def test_names_cannot_write_on_the_terminal():
    with pytest.raises(ClassNamesError) as caught:
        consistent(('\x1b[2J', 'b'), ('b', '\x1b[2J'))
    assert '\x1b' not in str(caught.value)


@pytest.mark.parametrize(
    ('one', 'other', 'wanted'),
    [
        ('abc', 'abc', False),
        ('abc', 'cab', False),
        ('abc', 'abd', True),
        ('abc', 'xyz', True),
        ('abc', 'ab', True),
        (WORDNET, 'abc', False),
        (WORDNET, 'ab', True),
        (WORDNET, (*WORDNET[:2], 'n99999999'), True),
        ('0123', 'abcd', True),
    ],
)
def test_other_classes(one, other, wanted):
    assert are_other_classes(tuple(one), tuple(other)) is wanted
    assert are_other_classes(tuple(other), tuple(one)) is wanted


def test_a_network_is_not_judged_by_classes_it_does_not_know():
    own, *others = lists('abc', 'xyz', 'uvw')
    with pytest.raises(ClassNamesError, match='other classes') as caught:
        check_related(own, others, ClassNamesError)
    assert "'a'" in str(caught.value)
    assert "'x'" in str(caught.value)
    check_related(own, [*others, own], ClassNamesError)
    check_related(own, lists('abz'), ClassNamesError)
    check_related(own, [], ClassNamesError)


def test_where_a_checkpoint_keeps_its_names():
    assert checkpoint_names(dict(CLASSES=['a', 'b'])) == ('a', 'b')
    assert checkpoint_names(dict(dataset_meta=dict(classes=('a',)))) == ('a',)
    for meta in (None, {}, dict(CLASSES=10), dict(dataset_meta=None)):
        assert checkpoint_names(meta) is None


def test_names_inside_wrappers():
    def split(classes, folders):
        return SimpleNamespace(
            metainfo=dict(classes=classes), folder_to_idx={f: i for i, f in enumerate(folders)}
        )

    repeated = SimpleNamespace(dataset=split('ab', 'xy'), metainfo=dict(classes='ab'))
    joined = SimpleNamespace(datasets=[repeated, split(('p', 'q'), ('q', 'p'))])
    found = data_set_names(joined, 'the split')
    assert [n.names for n in found] == [('x', 'y'), ('p', 'q'), ('q', 'p')]
    assert [n.are_folders for n in found] == [True, False, True]
    assert data_set_names(object(), 'the split') == []
