"""The demo's data sets: complete, the same each time, nothing lost."""

import gzip

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmpretrain_mobileone_ext.commands.training import demo as demo_data
from mmpretrain_mobileone_ext.errors import MobileOneExtError


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return demo_data.write_digits(tmp_path_factory.mktemp('data') / 'digits')


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_each_digit_is_written_once_with_its_pixels(digits):
    source, seen = load_digits(), set()
    for path in digits.glob('*/*/*.png'):
        index = int(path.stem)
        seen.add(index)
        assert int(path.parent.name) == source.target[index]
        pixels = np.asarray(Image.open(path))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.rint(source.images[index] * 255 / 16))
    assert seen == set(range(1797))
    assert len(list(digits.glob('*/*/*'))) == 1797


def test_the_split_is_stratified(digits):
    for label in range(10):
        sizes = [len(list((digits / split / str(label)).iterdir())) for split in ('train', 'test')]
        assert sizes[1] / sum(sizes) == pytest.approx(0.3, abs=0.01)


def test_the_files_are_the_same_each_time(digits, tmp_path):
    assert files(demo_data.prepare('digits', tmp_path)) == files(digits)
    assert {p.name for p in tmp_path.iterdir()} == {'digits'}


def test_an_existing_folder_is_left_as_it_is(tmp_path):
    (tmp_path / 'digits').mkdir()
    (tmp_path / 'digits/mine.txt').write_text('mine')
    demo_data.write_digits(tmp_path / 'digits')
    assert files(tmp_path) == {'digits/mine.txt': b'mine'}


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(root, share):
        (root / 'train').mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, '_write_digits', interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo_data.write_digits(tmp_path / 'digits')
    assert not list(tmp_path.iterdir())


@pytest.fixture
def package(tmp_path):
    """What Debian's package installs, with other content."""
    folder = tmp_path / 'package'
    folder.mkdir()
    for name in demo_data._FASHION_FILES:
        with gzip.open(folder / f'{name}.gz', 'wb') as file:
            file.write(name.encode())
    return folder


def test_fashion_mnist_is_unpacked(package, tmp_path):
    root = tmp_path / 'data/fashion'
    assert demo_data.unpack_fashion_mnist(root, package) == root
    assert files(root) == {n: n.encode() for n in demo_data._FASHION_FILES}
    assert {p.name for p in root.parent.iterdir()} == {'fashion'}


def test_files_of_others_in_the_folder_are_kept(package, tmp_path):
    root = tmp_path / 'fashion'
    root.mkdir()
    (root / 'notes.txt').write_text('mine')
    (root / demo_data._FASHION_FILES[0]).write_text('half a download')
    demo_data.unpack_fashion_mnist(root, package)
    assert files(root) == {
        'notes.txt': b'mine',
        **{n: n.encode() for n in demo_data._FASHION_FILES},
    }


def test_a_complete_folder_and_a_missing_package_are_left_alone(package, tmp_path):
    root = demo_data.unpack_fashion_mnist(tmp_path / 'fashion', package)
    (root / demo_data._FASHION_FILES[0]).write_text('newer')
    demo_data.unpack_fashion_mnist(root, package)
    assert files(root)[demo_data._FASHION_FILES[0]] == b'newer'
    absent = demo_data.unpack_fashion_mnist(tmp_path / 'x', tmp_path / 'y')
    assert not absent.exists()


def test_a_damaged_package_leaves_nothing(package, tmp_path):
    (package / f'{demo_data._FASHION_FILES[3]}.gz').write_bytes(b'not gzip')
    with pytest.raises(gzip.BadGzipFile):
        demo_data.unpack_fashion_mnist(tmp_path / 'fashion', package)
    assert {p.name for p in tmp_path.iterdir()} == {'package'}


def test_an_unknown_name_is_refused():
    with pytest.raises(MobileOneExtError, match=r"'mnist'.*'digits'"):
        demo_data.prepare('mnist')
