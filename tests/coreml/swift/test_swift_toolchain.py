"""Generated packages built and run by Swift's own compiler, where it is.

Apple's frameworks are stand-ins (``toolchain_kit``): what is tested is that everything compiles,
that the pixels which Core ML gets are exactly those of the golden cases and of the test pipeline,
and what the package makes of Core ML's answers.
"""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from toolchain_kit import build_modules, copy_package, swift

from mmpretrain_mobileone_ext.coreml.swift import read_bench_json
from mmpretrain_mobileone_ext.coreml.swift.facts import swift_steps
from mmpretrain_mobileone_ext.coreml.swift.golden import prepare_photo

pytestmark = pytest.mark.skipif(shutil.which('swift') is None, reason='Swift is not installed')

PILLOW = ('nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos')
OPENCV = ('nearest', 'bilinear', 'bicubic')
HOW = [dict(backend='pillow', interpolation=i) for i in PILLOW] + [
    dict(backend='cv2', interpolation=i) for i in OPENCV
]
SIZES = [(37, 53), (24, 17), (96, 64), (9, 201), (48, 48)]
STEPS = [
    *(dict(type='Resize', scale=[32, 24], **how) for how in HOW),
    *(dict(type='Resize', scale=[60, 40], keep_ratio=True, **how) for how in HOW[2::4]),
    *(
        dict(type='ResizeEdge', scale=24, edge=edge, backend='pillow')
        for edge in ('short', 'long', 'width', 'height')
    ),
    dict(type='CenterCrop', crop_size=[20, 16]),
    *(
        dict(type='EfficientNetCenterCrop', crop_size=24, backend=backend)
        for backend in ('cv2', 'pillow')
    ),
]
#: What of red and blue is in Y', after ITU-R BT.601, 709 and 2020.
MATRICES = {'601': (0.299, 0.114), '709': (0.2126, 0.0722), '2020': (0.2627, 0.0593)}
#: Black, and steps from it to white and over the range of Cb and Cr.
RANGES = dict(video=(16, 219, 224), full=(0, 255, 255))
TEST_FILE = Path(__file__).with_name('StepTests.swift')


def passes(step, size):
    """Pillow's two passes one by one: their order depends on its version."""
    if step['type'] != 'Resize' or step.get('backend') != 'pillow' or step.get('keep_ratio'):
        return [step]
    return [dict(step, scale=[step['scale'][0], size[0]]), step]


def write_steps(package, library):
    """A test of the steps against mmcv itself, on random pixels."""
    folder = package / 'Tests' / f'{library}Tests'
    rng, sizes = np.random.default_rng(0), []
    for index, (number, size) in enumerate(itertools.product(range(len(STEPS)), SIZES)):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        step = STEPS[number]
        wanted = prepare_photo(pixels, passes(step, size))
        cubic = (
            step.get('interpolation', 'bicubic') == 'bicubic'
            and step.get('backend', 'cv2') == 'cv2'
        )
        sizes.append(
            dict(
                width=size[1],
                height=size[0],
                steps=number,
                wide=wanted.shape[1],
                high=wanted.shape[0],
                levels=int(cubic),
            )
        )
        (folder / f'Golden/{index}.in').write_bytes(pixels.tobytes())
        (folder / f'Golden/{index}.out').write_bytes(wanted.tobytes())
    (folder / 'Golden/steps.json').write_text(json.dumps(sizes))
    _write_turned(folder / 'Golden', rng)
    _write_cameras(folder / 'Golden', rng)
    expressions = [swift_steps([step]).expressions for step in STEPS]
    assert all(expressions)
    lines = ',\n        '.join(f'[{e}]' for (e,) in expressions)
    (folder / 'StepTests.swift').write_text(
        TEST_FILE.read_text()
        .replace('import LIBRARY', f'import {library}')
        .replace('/* STEPS */', lines)
    )


def _write_turned(folder, rng):
    pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
    (folder / 'turned.in').write_bytes(pixels.tobytes())
    for turn in range(1, 9):
        image = Image.fromarray(pixels)
        image.getexif()[0x0112] = turn
        upright = np.array(ImageOps.exif_transpose(image))
        (folder / f'turned-{turn}.out').write_bytes(upright.tobytes())
        head = f'53 37 3 {turn}\n'.encode()
        (folder / f'turned-{turn}.pixels').write_bytes(head + pixels.tobytes())


def _write_cameras(folder, rng):
    """A frame of 5 x 3 pixels: Y', then pairs of Cb and Cr, and its colors in float64."""
    luma = rng.integers(0, 256, (3, 5), np.uint8)
    pairs = rng.integers(0, 256, (2, 3, 2), np.uint8)
    (folder / 'camera.in').write_bytes(luma.tobytes() + pairs.tobytes())
    for standard, (red, blue) in MATRICES.items():
        for name, (black, gray, color) in RANGES.items():
            wanted = from_camera(luma, pairs, red, blue, black, gray, color)
            (folder / f'camera-{name}-{standard}.out').write_bytes(wanted.tobytes())


def from_camera(luma, pairs, red, blue, black, gray, color):
    """(H, W, 3) uint8 by the inverse of the matrix that makes Y' Cb Cr of R' G' B'."""
    green = 1 - red - blue
    y = np.array([red, green, blue])
    cb = (np.array([0, 0, 1]) - y) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - y) / (2 * (1 - red))
    height, width = luma.shape
    chroma = pairs.repeat(2, 0).repeat(2, 1)[:height, :width].astype(np.float64)
    scaled = np.concatenate(
        [(luma[..., None].astype(np.float64) - black) / gray, (chroma - 128) / color], 2
    )
    colors = scaled @ np.linalg.inv(np.stack([y, cb, cr])).T
    return np.clip(np.round(255 * colors), 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def modules(tmp_path_factory):
    return build_modules(tmp_path_factory.mktemp('modules'))


@pytest.fixture(scope='module')
def built(packages, modules, tmp_path_factory):
    """A copy of the color package, built with its tests."""
    package = copy_package(packages['rgb'], tmp_path_factory.mktemp('swift'))
    write_steps(package, 'MyRgb')
    done = swift(package, modules, 'build', '--build-tests')
    assert done.returncode == 0, done.stdout + done.stderr
    return package, done.stdout + done.stderr


@pytest.fixture(scope='module')
def strict(packages, modules, tmp_path_factory):
    """The same in Swift 6 mode."""
    package = copy_package(packages['rgb'], tmp_path_factory.mktemp('swift6'), language=6)
    write_steps(package, 'MyRgb')
    done = swift(package, modules, 'build', '--build-tests')
    assert done.returncode == 0, done.stdout + done.stderr
    return package, done.stdout + done.stderr


def executed(done):
    """Tests run and failed, of the whole run."""
    found = re.findall(r'Executed (\d+) tests?, with (\d+) failure', done.stdout + done.stderr)
    return tuple(map(int, found[-1]))


def test_builds_without_a_warning(built):
    assert 'warning:' not in built[1]


def test_own_tests_pass(built, modules):
    done = swift(built[0], modules, 'test')
    assert done.returncode == 0, done.stdout + done.stderr
    assert executed(done) == (18, 0)
    found = read_bench_json(built[0] / 'bench.json')
    assert (found.iterations, found.warmup, found.build) == (20, 5, 'debug')
    assert found.plan == dict(cpu=2, gpu=1, neural_engine=2, none=1)
    assert (found.model, found.device) == ('Rgb', 'Fake1,1')
    assert found.thermal == ('fair', 'fair')
    assert found.footprint_mib == 64


def test_swift_6_has_no_warning_and_passes(strict, modules):
    assert 'warning:' not in strict[1]
    done = swift(strict[0], modules, 'test')
    assert done.returncode == 0, done.stdout + done.stderr
    assert executed(done) == (18, 0)


def test_swift_6_refuses_a_frame_that_somebody_keeps(strict, modules):
    """Otherwise it would say nothing that all else compiles."""
    file = strict[0] / 'Example/MyRgbExample/ClassifierModel.swift'
    before = file.read_text()
    kept = """
        private var kept: CVPixelBuffer?

        func classifyKept() async {
            guard let kept = kept else { return }
            await classify(.frame(kept))
        }
    """
    changed = before.replace('    func load() async', f'{kept}\n    func load() async', 1)
    file.write_text(changed.replace('import SwiftUI', 'import CoreVideo\nimport SwiftUI', 1))
    done = swift(strict[0], modules, 'build', '--target', 'MyRgbExample')
    file.write_text(before)
    assert done.returncode != 0
    assert re.search("error: sending .*'kept'", done.stdout + done.stderr)


def test_command(built, modules):
    out = built[0] / 'command.json'
    done = swift(
        built[0],
        modules,
        'run',
        'myrgb-bench',
        '--iterations',
        '7',
        '--warmup',
        '0',
        '--compute-units',
        'cpuAndNeuralEngine',
        '--out',
        str(out),
    )
    assert done.returncode == 0, done.stderr
    found = read_bench_json(out)
    assert (found.iterations, found.warmup, found.compute_units) == (7, 0, 'cpuAndNeuralEngine')
    for wrong, message in (
        (['--iterations', '0'], 'iterations is 0; '),
        (['--warmup', 'x'], '--warmup is x, which is no'),
        (['--colour', '1'], '--colour is not known'),
        (['--compute-units', 'tpu'], 'units is tpu'),
        (['--out'], '--out has no value'),
    ):
        done = swift(built[0], modules, 'run', 'myrgb-bench', *wrong)
        assert done.returncode == 1
        assert re.search(f'myrgb-bench: .*{message}', done.stderr)


def test_other_answers_fail_the_tests(built, modules):
    file = built[0] / 'recorded.json'
    before = file.read_text()
    content = json.loads(before)
    for values in content['answers'].values():
        values.reverse()
    file.write_text(json.dumps(content))
    done = swift(built[0], modules, 'test', '--filter', 'GoldenTests')
    file.write_text(before)
    assert done.returncode != 0
    assert executed(done)[1] >= 4


def test_gray_package(packages, modules, tmp_path):
    package = copy_package(packages['gray'], tmp_path)
    done = swift(package, modules, 'test')
    assert done.returncode == 0, done.stdout + done.stderr
    assert executed(done) == (13, 0)
