"""Files of class labels: a label a line, or a reason why not."""

import unicodedata

import pytest
from hostile_text import NAMES

from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.source import choose_labels


def read(path, content, count):
    path.write_bytes(content)
    return choose_labels(path, [], count).names


@pytest.mark.parametrize(
    'content',
    [
        b'cat\ndog\n',
        b'cat\ndog',
        b'cat\r\ndog\r\n',
        b'cat\rdog',
        b'\xef\xbb\xbfcat\ndog\n',
        b' cat \n\tdog\n',
    ],
)
def test_what_editors_write_is_read(content, tmp_path):
    assert read(tmp_path / 'labels.txt', content, 2) == ('cat', 'dog')


@pytest.mark.parametrize('text', ['cat\ndog\n', '猫\n犬\n', 'é\nü\n'])
@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'utf-32-le'])
def test_another_encoding_is_refused(text, encoding, tmp_path):
    with pytest.raises(ExportError, match='UTF-8') as caught:
        read(tmp_path / 'labels.txt', text.encode(encoding), 2)
    assert 'labels.txt' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'inside', ['\0', '\x0c', '\x0b', '\x1b', '\x1c', '\x85', '\x7f', '\u2028', '\u2029']
)
@pytest.mark.parametrize('place', ['cat{}\ndog', 'ca{}t\ndog', '{}cat\ndog', 'cat\n{}\ndog'])
def test_controls_are_no_line_ends_and_no_label(inside, place, tmp_path):
    content = place.format(inside).encode()
    with pytest.raises(ExportError, match=r'labels.txt: line [12] holds'):
        read(tmp_path / 'labels.txt', content, 2)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ExportError, match='as UTF-8'):
        read(tmp_path / 'labels.txt', b'caf\xe9\n', 1)
    with pytest.raises(ExportError, match='is empty'):
        read(tmp_path / 'labels.txt', b'', 1)
    with pytest.raises(ExportError, match="label 2 is ''"):
        read(tmp_path / 'labels.txt', b'cat\n\ndog\n', 3)


def test_any_visible_label_is_read(tmp_path):
    names = tuple(
        {
            unicodedata.normalize('NFC', n.strip()): n.strip()
            for n in NAMES
            if n.strip().isprintable() and n.strip()
        }.values()
    )
    assert len(names) > 90
    content = '\n'.join(names).encode()
    assert read(tmp_path / 'labels.txt', content, len(names)) == names


def choose(given, checkpoint, *split):
    known = [('checkpoint', checkpoint), *zip(('data set', 'folders'), split)]
    return choose_labels(given, known, 3).names


def test_lists_that_agree():
    assert choose(None, 'abc', 'abc', 'abc') == ('a', 'b', 'c')
    assert choose(None, 'abc', ('n00000001', 'n00000002', 'n00000003'))
    assert choose(None, 'abc', 'abc', 'xyz') == ('a', 'b', 'c')
    assert choose(tuple('uvw'), 'abc', 'abc') == ('u', 'v', 'w')
    assert choose(None, None, 'abc', 'xyz') == ('a', 'b', 'c')


@pytest.mark.parametrize(
    ('lists', 'said'),
    [
        ((None, 'cba', 'cba', 'abc'), 'another order'),
        ((None, None, 'cba', 'abc'), 'another order'),
        ((None, 'abc', 'bc'), "'a' missing in classes from data set"),
        ((tuple('bac'), 'abc', 'abc'), 'classes from given'),
        ((tuple('bac'), None, 'abc'), 'another order'),
        ((None, 'abc', 'xyz'), 'other classes'),
        ((None, ('x', 'caf\u00e9', 'cafe\u0301')), 'two Unicode forms'),
        ((('x', 'caf\u00e9', 'cafe\u0301'), None), 'two Unicode forms'),
    ],
)
def test_lists_that_do_not(lists, said):
    with pytest.raises(ExportError, match=said):
        choose(*lists)


def test_an_index_makes_no_label_of_another_class():
    with pytest.raises(ExportError, match=r"such as 'a \(0\)'"):
        choose(None, ('a', 'a', 'a (0)'))
