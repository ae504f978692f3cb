"""Packages around an ``.aimodel``: the same predictor, with Core AI behind it."""

import json
import re
import shutil

import numpy as np
import pytest
from apple_api import APPLE, CORE_AI, CORE_AI_PORTABLE, PORTABLE, STUBS
from export_kit import build, oracle, relative
from swift_kit import constants, external, read_literal, sources, syntax_errors
from swift_models import CORE_AI_NAMES, KINDS, LABELS
from toolchain_kit import build_modules, copy_package, swift

from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.coreml.swift import package, write_swift_package
from mmpretrain_mobileone_ext.coreml.swift.golden import as_tensor
from mmpretrain_mobileone_ext.errors import ExportError

LIBRARY = dict(rgb='AiRgb', bgr='AiBgr', gray='AiGray')
#: Public calls of a predictor; the class and the initializer of Core ML's configuration are apart.
CALLS = re.compile(r'public (?:convenience |static )*(?:init|func|var|let) ?\w*[^{=\n]*')


def golden(folder, kind):
    where = folder / 'Tests' / f'{LIBRARY[kind]}Tests' / 'Golden'
    return where, json.loads((where / 'golden.json').read_text())


@pytest.mark.parametrize('kind', KINDS)
def test_golden_values_are_those_of_apples_interpreter(core_ai, kind):
    model, folder = core_ai[kind]
    where, found = golden(folder, kind)
    program = format_of(model).load(model)
    _, channels, height, width = program.program.inputs[0].shape
    cases = found['cases'] + [p['prepared'] for p in found['photos']]
    assert (len(found['cases']), len(found['photos'])) == (3, 2)
    for case in cases:
        raw = np.frombuffer((where / case['pixels']).read_bytes(), np.uint8)
        pixels = raw.reshape(height, width, channels)
        order = slice(None, None, -1) if kind == 'bgr' else slice(None)
        planes = [pixels[..., i].astype(np.float32) for i in range(channels)][order]
        values = program.predict({'image': np.stack(planes)[None]})['classLabel_probs'][0]
        assert case['probabilities'] == values.tolist()
        assert case['label'] == LABELS[int(values.argmax())]
        other = program.predict({'image': 255 - np.stack(planes)[None]})['classLabel_probs'][0]
        assert case['probabilities'] != other.tolist()
    precision = 'fp32' if kind == 'bgr' else 'fp16'
    assert found['tolerance']['name'] == f'export-{precision}'


def test_golden_values_are_those_of_torch(core_ai):
    """Which tells one order of channels from the other."""
    where, found = golden(core_ai['rgb'][1], 'rgb')
    raw = [np.frombuffer((where / c['pixels']).read_bytes(), np.uint8) for c in found['cases']]
    images = [pixels.reshape(24, 32, 3) for pixels in raw]
    wanted = oracle(build(), images)
    values = np.array([c['probabilities'] for c in found['cases']])
    assert relative(values, wanted) < found['tolerance']['max_relative']
    swapped = oracle(build(), [image[..., ::-1] for image in images])
    assert relative(values, swapped) > found['tolerance']['max_relative']


@pytest.mark.parametrize('kind', KINDS)
def test_names_are_those_of_the_file(core_ai, kind):
    model, folder = core_ai[kind]
    text = (folder / 'Sources' / LIBRARY[kind] / 'ModelInfo.swift').read_text()
    found, program = constants(text), format_of(model).describe(model)
    wanted = dict(
        inputName=program.inputs[0].name,
        probabilitiesName=program.outputs[0].name,
        format='aimodel',
        resourceName=CORE_AI_NAMES[kind][: -len('.aimodel')],
        resourceExtension='aimodel',
    )
    assert {k: read_literal(found[k]) for k in wanted} == wanted
    assert 'labelName' not in found
    layout = dict(rgb='rgb', bgr='bgr', gray='grayscale')[kind]
    assert found['colorLayout'] == f'ColorLayout.{layout}'
    manifest = (folder / 'Package.swift').read_text()
    assert 'platforms: [.iOS("27.0"), .macOS("27.0")]' in manifest
    readme = (folder / 'README.md').read_text()
    assert 'Nobody has run' in readme
    assert 'Core ML' not in text


def test_every_file_parses_and_nothing_is_forced(core_ai):
    folder = core_ai['rgb'][1]
    for file in sources(folder):
        assert syntax_errors(file.read_bytes()) == [], file.name
        text = re.sub('(?m)//.*$', '', file.read_text())
        assert not re.search(r'try!|as!|fatalError|precondition|\bassert\(', text), file.name
        code = re.sub(r'"(\\.|[^"\\\n])*"', '""', text)
        assert not re.search(r'[\w)\]]!(?!=)', code), file.name
        assert 'import CoreML' not in code, file.name


def test_nothing_but_documented_api_is_called(core_ai):
    used = external(core_ai['rgb'][1])
    assert used - set(APPLE) - PORTABLE - set(CORE_AI) - CORE_AI_PORTABLE == set()
    assert CORE_AI_PORTABLE - used == set()
    text = next(core_ai['rgb'][1].rglob('CoreAIRuntime.swift')).read_text()
    assert {name for name in CORE_AI if not re.search(rf'\b{name}\b', text)} == set()
    declared = (STUBS / 'CoreAI.swift').read_text()
    kinds = 'struct|func|let|var|case|enum'
    missing = {n for n in CORE_AI if not re.search(rf'\b({kinds}) .*\b{n}\b', declared)}
    assert missing == set()


def test_core_ai_is_called_in_one_file_behind_its_guards(core_ai):
    folder = core_ai['rgb'][1]
    importing = [f for f in sources(folder) if re.search(r'(?m)^\s*import CoreAI$', f.read_text())]
    assert [f.name for f in importing] == ['CoreAIRuntime.swift']
    lines = [line for line in importing[0].read_text().splitlines() if line[:2] != '//']
    assert (lines[0], lines[-1]) == ('#if canImport(CoreAI)', '#endif')
    # Whatever takes or makes a type of Core AI has its availability before it.
    text = importing[0].read_text()
    for head in ('final class CoreAIRuntime', 'extension ComputeUnits'):
        assert f'@available(iOS 27.0, macOS 27.0, *)\n    {head}' in text
    using = [f for f in sources(folder) if 'CoreAIRuntime' in f.read_text()]
    assert {f.name for f in using} == {'CoreAIRuntime.swift', 'ModelLoader.swift'}


def test_both_formats_have_one_predictor(packages, core_ai):
    texts = [
        next(folder.glob('Sources/*/*Predictor.swift')).read_text()
        for folder in (packages['rgb'], core_ai['rgb'][1])
    ]
    one, other = (t.replace(n, 'X') for t, n in zip(texts, ('MyRgb', 'AiRgb')))
    assert one == other
    assert len(CALLS.findall(one)) > 10


def test_a_file_without_its_order_of_channels_is_refused(core_ai, tmp_path):
    model = tmp_path / 'old.aimodel'
    shutil.copytree(core_ai['rgb'][0], model)
    file = model / 'metadata.json'
    found = json.loads(file.read_text('utf-8'))
    del found['creatorDefinedMetadata']['channel_order']
    file.write_text(json.dumps(found), 'utf-8')
    with pytest.raises(ExportError, match=r'in no stated order; .*export the file again'):
        write_swift_package(model, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_features_are_refused(core_ai, tmp_path, monkeypatch):
    model = core_ai['gray'][0]
    program = format_of(model).describe(model)
    object.__setattr__(program, 'predicted_probabilities_name', '')
    monkeypatch.setattr(type(format_of(model)), 'describe', lambda self, path: program)
    with pytest.raises(ExportError, match='takes classifiers'):
        package.write_swift_package(model, tmp_path / 'out')


def test_tensors_of_every_order():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    red_first, blue_first = as_tensor(pixels, 'rgb'), as_tensor(pixels, 'bgr')
    assert red_first.shape == (1, 3, 2, 4)
    assert red_first.dtype == np.float32
    assert np.array_equal(red_first[0].transpose(1, 2, 0), pixels)
    assert np.array_equal(blue_first[0].transpose(1, 2, 0), pixels[..., ::-1])
    assert np.array_equal(as_tensor(pixels[..., 0], 'grayscale')[0, 0], pixels[..., 0])


@pytest.fixture(scope='module')
def modules(tmp_path_factory):
    if shutil.which('swift') is None:
        pytest.skip('Swift is not installed')
    return build_modules(tmp_path_factory.mktemp('modules'))


def passed(done):
    """Tests run and failed, of the whole run."""
    found = re.findall(r'Executed (\d+) tests?, with (\d+) failure', done.stdout + done.stderr)
    return tuple(map(int, found[-1]))


@pytest.mark.parametrize(('kind', 'language'), [('rgb', 5), ('bgr', 6), ('gray', 6)])
def test_own_tests_pass(core_ai, modules, tmp_path, kind, language):
    """The stand-in knows no answer but to exactly the tensors of the golden cases."""
    copied = copy_package(core_ai[kind][1], tmp_path, language)
    done = swift(copied, modules, 'test')
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed(done) == (13, 0)
    assert 'warning:' not in done.stdout + done.stderr
    report = json.loads((copied / 'bench.json').read_text())
    assert report['model']['format'] == 'aimodel'
    assert 'compute_plan' not in report
    assert 'compile_ms' not in report['cold_start']


def test_planes_in_another_order_fail_the_tests(core_ai, modules, tmp_path):
    copied = copy_package(core_ai['rgb'][1], tmp_path)
    info = next(copied.rglob('PixelImage+Kernels.swift'))
    text = info.read_text()
    assert 'colorLayout == .rgb' in text
    info.write_text(text.replace('colorLayout == .rgb', 'colorLayout == .bgr'))
    done = swift(copied, modules, 'test', '--filter', 'GoldenTests')
    assert done.returncode != 0
    assert passed(done)[1] >= 4


def test_without_core_ai_it_compiles_and_says_so(core_ai, modules, tmp_path):
    """As for a simulator, whose SDK lacks it."""
    lacking = tmp_path / 'modules'
    shutil.copytree(modules, lacking, ignore=shutil.ignore_patterns('*CoreAI*'))
    copied = copy_package(core_ai['rgb'][1], tmp_path)
    done = swift(copied, lacking, 'test')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'skipped' in done.stdout + done.stderr
    done = swift(copied, lacking, 'run', 'airgb-bench', '--iterations', '1')
    assert done.returncode == 1
    assert 'this build has no Core AI' in done.stderr
