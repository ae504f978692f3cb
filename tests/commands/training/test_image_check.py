"""Every file of a folder is opened, and none is dropped without a word."""

import csv
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.finetune import finetune_config, read_folder
from mmpretrain_mobileone_ext.commands.training.finetune.cli import print_folder
from mmpretrain_mobileone_ext.commands.training.finetune.rehearsal import check_images
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.utils.config import MIM
from mmpretrain_mobileone_ext.utils.text import PlainConsole

DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'
RNG = np.random.default_rng(3)


def encoded(kind, **options):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 30, 3), np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


GOOD = {
    'a.jpg': encoded('JPEG'),
    'b.JPEG': encoded('JPEG'),
    'c.png': encoded('PNG'),
    'd.webp': encoded('WEBP'),
    'e.tiff': encoded('TIFF'),
    'f.TIF': encoded('TIFF'),
    'g.bmp': encoded('BMP'),
    'h.jfif': encoded('JPEG'),
    # Cameras append previews and films.
    'i.jpg': encoded('JPEG') + b'\0 a film \xff\xda' + bytes(9),
}
BAD = {
    '._a.jpg': (b'\0\5\x16\7\0\2', 'data of macOS about another file'),
    'apple.jpg': (b'\0\5\x16\7\0\2' + bytes(60), 'no image but data of macOS about another file'),
    'page.jpg': (b'<!DOCTYPE html><html>404</html>', 'no image but a web page or other text'),
    'lfs.png': (
        b'version https://git-lfs.github.com/spec/v1\n',
        'no image but a pointer of Git LFS; fetch the file',
    ),
    'zero.png': (b'', 'empty'),
    'half.jpg': (GOOD['a.jpg'][: len(GOOD['a.jpg']) // 2], 'cut off'),
    'half.png': (GOOD['c.png'][: len(GOOD['c.png']) // 2], 'cut off'),
    'photo.jpg': (b'\0\0\0\x18ftypheic\0\0\0\0mif1', 'name it .heic'),
    'notes.txt': (b'x', 'no image by its name (.txt)'),
    'Thumbs.db': (b'x', 'no image by its name (.db)'),
    'README': (b'x', 'no image by its name (no suffix)'),
    '.DS_Store': (b'x', 'hidden'),
}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / 'data'
    for name in ('cat', 'dog'):
        (root / name).mkdir(parents=True)
        for file, content in GOOD.items():
            (root / name / file).write_bytes(content)
    return root


def read(root, recipe=None, **options):
    recipe = recipe or Config.fromfile(DIGITS)
    return read_folder(
        root,
        check=lambda paths: check_images(recipe, root, paths, PlainConsole(quiet=True)),
        **options,
    )


def test_formats_are_read_and_the_rest_is_listed(root):
    for file, (content, _) in BAD.items():
        (root / 'dog' / file).write_bytes(content)
    (root / 'dog' / 'gone.jpg').symlink_to(root / 'nowhere')
    (root / 'dog' / '.cache').mkdir()
    (root / 'dog' / 'more').symlink_to(root / 'cat')
    folder = read(root)
    used = {p for p, _ in (*folder.train, *folder.test)}
    assert used == {f'{c}/{f}' for c in ('cat', 'dog') for f in GOOD}
    skipped = dict(folder.skipped)
    assert set(skipped) == {f'dog/{f}' for f in BAD} | {'dog/gone.jpg', 'dog/.cache/', 'dog/more/'}
    for file, (_, reason) in BAD.items():
        assert reason in skipped[f'dog/{file}'], file
    assert skipped['dog/gone.jpg'] == 'no file that can be read'
    assert skipped['dog/more/'] == 'a link to a folder'


def test_what_is_set_aside_can_be_read(root):
    """The share is of the readable ones."""
    for index in range(9):
        (root / 'cat' / f'{index}.jpg').write_bytes(b'')
    folder = read(root, holdout=0.34)
    assert sum(label == 0 for _, label in folder.test) == 3


def test_a_class_left_with_nothing_is_refused(root):
    (root / 'eel').mkdir()
    (root / 'eel' / '1.jpg').write_bytes(b'<html>')
    with pytest.raises(MobileOneExtError, match=r'eel holds no image that can be read.*web page'):
        read(root)
    (root / 'eel' / '1.jpg').write_bytes(GOOD['a.jpg'])
    with pytest.raises(MobileOneExtError, match='eel has 1 image'):
        read(root)


def test_a_loader_that_yields_several_kinds_is_refused(root):
    recipe = Config.fromfile(DIGITS)
    for split in ('train', 'val', 'test'):
        recipe[f'{split}_dataloader'].dataset.pipeline[0].color_type = 'unchanged'
    read(root, recipe)
    gray = io.BytesIO()
    Image.new('L', (8, 8)).save(gray, 'PNG')
    (root / 'cat' / 'gray.png').write_bytes(gray.getvalue())
    with pytest.raises(MobileOneExtError, match=r'1 in cat/gray\.png, 3 in .*color_type'):
        read(root, recipe)


def test_counts_reasons_and_files_are_shown(root, tmp_path):
    for index in range(7):
        (root / 'cat' / f'{index}[red].jpg').write_bytes(b'')
    (root / 'dog' / '=1+1.txt').write_bytes(b'')
    text = io.StringIO()
    print_folder(read(root), tmp_path, PlainConsole(file=text, width=90))
    shown = text.getvalue()
    assert '8 (7 empty, 1 no image by its name (.txt))' in shown
    assert 'cat/0[red].jpg: empty' in shown
    assert 'cat/6[red].jpg' not in shown
    with open(tmp_path / 'skipped.csv', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['path', 'reason']
    assert len(rows) == 9
    assert re.search(r'cat\D+7\D+50\.0\D+2\D+dog\D+7\D+50\.0\D+2\D+', shown)


def test_without_the_decoder_heic_is_skipped_by_name(root, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (root / 'cat' / 'IMG_1.HEIC').write_bytes(b'\0\0\0\x18ftypheic')
    assert (
        dict(read(root).skipped)['cat/IMG_1.HEIC']
        == 'HEIC needs pillow-heif: pip install pillow-heif'
    )


def test_heic_goes_through_pillow_and_the_export_knows(root, tmp_path, monkeypatch):
    """A stand-in for the decoder: Pillow tells formats by content."""
    from mmpretrain_mobileone_ext.models.preprocessing import data_order

    taught = []
    monkeypatch.setitem(
        sys.modules, 'pillow_heif', SimpleNamespace(register_heif_opener=lambda: taught.append(1))
    )
    (root / 'cat' / 'IMG_1.HEIC').write_bytes(GOOD['c.png'])
    folder = read(root)
    assert not folder.skipped
    assert taught
    cfg = finetune_config(Config.fromfile(DIGITS), folder, tmp_path)
    steps = cfg.train_dataloader.dataset.pipeline
    assert steps[0].type == 'mmpretrain_mobileone_ext.LoadImageFromFile'
    assert data_order(steps) == 'BGR'
    from mmpretrain.registry import TRANSFORMS

    load = TRANSFORMS.build(steps[0])
    both = [load(dict(img_path=str(root / 'cat' / f)))['img'] for f in ('IMG_1.HEIC', 'c.png')]
    assert np.array_equal(*both)


def test_real_heic(root):
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    smooth = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3)
    Image.fromarray(smooth.astype(np.uint8)).save(root / 'dog' / 'x.HEIC')
    assert ('dog/x.HEIC', 1) in {*read(root).train, *read(root).test}
