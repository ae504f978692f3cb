"""Generated packages against the model's specification and runtime."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from swift_kit import constants, read_literal, sources, strings, syntax_errors
from swift_models import KINDS, LABELS, NAMES

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.swift.bench import SCHEMA
from mmpretrain_mobileone_ext.coreml.swift.facts import _systems

LIBRARY = dict(rgb='MyRgb', bgr='MyBgr', gray='MyGray')
LAYOUT = dict(rgb='rgb', bgr='bgr', gray='grayscale')
APPLE = {
    'AVFoundation',
    'CoreGraphics',
    'CoreML',
    'CoreVideo',
    'Darwin',
    'Dispatch',
    'Foundation',
    'ImageIO',
    'PackageDescription',
    'PhotosUI',
    'SwiftUI',
    'UIKit',
    'XCTest',
}


def manifest_names(package):
    return set(re.findall(r'arget\(\s*name: "([\w-]+)"', (package / 'Package.swift').read_text()))


def specification(package, kind):
    """The model inside the package, by Apple's protobuf alone."""
    root = package / 'Sources' / LIBRARY[kind] / 'Model' / NAMES[kind]
    file = root if root.is_file() else next(root.rglob('*.mlmodel'))
    spec = quiet.coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    return spec


def info(package, kind):
    text = (package / 'Sources' / LIBRARY[kind] / 'ModelInfo.swift').read_text()
    return constants(text)


def golden(package, kind):
    folder = package / 'Tests' / f'{LIBRARY[kind]}Tests' / 'Golden'
    return folder, json.loads((folder / 'golden.json').read_text())


@pytest.mark.parametrize('kind', KINDS)
def test_every_file_parses(packages, kind):
    package = packages[kind]
    files = [package / 'Package.swift', *sources(package)]
    assert len(files) > 25
    found = {f.name: syntax_errors(f.read_bytes()) for f in files}
    assert {name: errors for name, errors in found.items() if errors} == {}


def test_a_file_that_is_no_swift_is_noticed(packages):
    for file in sources(packages['rgb']):
        text = file.read_text()
        at = text.index('{')
        for broken in (
            text[:at] + text[at + 1 :],
            text + '\n}\n',
            text.replace(' = ', ' = = ', 1) + 'let 1x = ,',
        ):
            assert syntax_errors(broken), file.name


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_forced_or_left_open(packages, kind):
    package = packages[kind]
    for file in [package / 'Package.swift', *sources(package)]:
        text = re.sub('(?m)//.*$', '', file.read_text())
        assert not re.search(r'try!|as!|fatalError|precondition|\bassert\(', text), file.name
        code = re.sub(r'"(\\.|[^"\\\n])*"', '""', text)
        assert not re.search(r'[\w)\]]!(?!=)', code), file.name
    for file in package.rglob('*'):
        if file.suffix in ('.swift', '.md', '.json'):
            text = file.read_text()
            assert '{%' not in text, file.name
            assert '{{' not in text.replace('{{ x }}', ''), file.name


@pytest.mark.parametrize('kind', KINDS)
def test_names_are_those_of_the_specification(packages, kind):
    found, spec = info(packages[kind], kind), specification(packages[kind], kind)
    description = spec.description
    image = description.input[0].type.imageType
    wanted = dict(
        inputName=description.input[0].name,
        labelName=description.predictedFeatureName,
        probabilitiesName=description.predictedProbabilitiesName,
        preprocessing=description.metadata.userDefined['preprocessing'],
        precision=description.metadata.userDefined['precision'],
    )
    assert {k: read_literal(found[k]) for k in wanted} == wanted
    assert (int(found['width']), int(found['height'])) == (image.width, image.height)
    layout = image.ColorSpace.Name(image.colorSpace).lower()
    assert found['colorLayout'] == f'ColorLayout.{LAYOUT[kind]}'
    assert LAYOUT[kind] == layout
    outputs = {f.name for f in description.output}
    assert {wanted['labelName'], wanted['probabilitiesName']} == outputs


@pytest.mark.parametrize('kind', KINDS)
def test_labels_are_those_of_the_model(packages, kind):
    text = (packages[kind] / 'Sources' / LIBRARY[kind] / 'Labels.swift').read_text()
    assert tuple(strings(text)) == LABELS
    spec = specification(packages[kind], kind)
    if kind == 'gray':
        stored = spec.neuralNetworkClassifier.stringClassLabels.vector
        assert tuple(stored) == LABELS
    assert json.loads(spec.description.metadata.userDefined['classes']) == list(LABELS)


@pytest.mark.parametrize('kind', KINDS)
def test_targets_and_resources_exist(packages, kind):
    package, library = packages[kind], LIBRARY[kind]
    names = manifest_names(package)
    kinds = ('', 'Kernels', 'Bench', 'Tests')
    assert names == {f'{library.lower()}-bench', *(f'{library}{kind}' for kind in kinds)}
    folders = {f.name for parent in ('Sources', 'Tests') for f in (package / parent).iterdir()}
    assert names == folders
    assert len({name.casefold() for name in names}) == 5
    found = info(package, kind)
    resource = (
        package
        / 'Sources'
        / library
        / read_literal(found['resourceFolder'])
        / '.'.join(read_literal(found[k]) for k in ('resourceName', 'resourceExtension'))
    )
    assert resource.exists()
    assert resource.name == NAMES[kind]
    manifest = (package / 'Package.swift').read_text()
    assert set(re.findall(r'\.copy\("(\w+)"\)', manifest)) == {'Model', 'Golden'}
    assert (package / SCHEMA.name).read_bytes() == SCHEMA.read_bytes()
    assert manifest.startswith('// swift-tools-version: 5.9\n')


@pytest.mark.parametrize('kind', KINDS)
def test_imports_are_declared(packages, kind):
    package, library = packages[kind], LIBRARY[kind]
    allowed = {
        library: {f'{library}Kernels'},
        f'{library}Example': {library},
        f'{library}Bench': {library},
        f'{library.lower()}-bench': {library, f'{library}Bench'},
        f'{library}Tests': {library, f'{library}Bench'},
    }
    for file in sources(package):
        target = file.relative_to(package).parts[1]
        imports = set(re.findall(r'(?m)^import (\w+)$', file.read_text()))
        assert imports <= APPLE | allowed[target], file.name


@pytest.mark.parametrize(
    ('kind', 'ios', 'macos'),
    [('rgb', '16.0', '13.0'), ('bgr', '16.0', '13.0'), ('gray', '15.0', '12.0')],
)
def test_platforms_read_the_model(packages, kind, ios, macos):
    manifest = (packages[kind] / 'Package.swift').read_text()
    assert f'platforms: [.iOS("{ios}"), .macOS("{macos}")]' in manifest


@pytest.mark.parametrize(('version', 'systems'), [(9, ('18.0', '15.0')), (10, ('26.0', '26.0'))])
def test_since_26_both_systems_have_one_number(models, version, systems):
    newer = replace(read_program(models['rgb']), spec_version=version)
    assert _systems(newer, format_of(models['rgb'])) == systems


@pytest.mark.parametrize('kind', KINDS)
def test_golden_values_equal_the_runtimes(packages, models, kind):
    folder, found = golden(packages[kind], kind)
    arithmetic = 'fp32' if kind == 'bgr' else 'fp16'
    program = load_program(models[kind], arithmetic=arithmetic)
    height, width = program.image_size
    shape = (height, width) if kind == 'gray' else (height, width, 3)
    cases = found['cases'] + [p['prepared'] for p in found['photos']]
    assert len(found['cases']) == 3
    assert len(found['photos']) == 2
    for case in cases:
        raw = np.frombuffer((folder / case['pixels']).read_bytes(), np.uint8)
        wanted = program.predict({'image': raw.reshape(shape)})
        assert case['label'] == wanted['classLabel']
        values = [wanted['classLabel_probs'][name] for name in LABELS]
        assert case['probabilities'] == values
        assert sum(values) == pytest.approx(1, abs=2e-3)
        other = program.predict({'image': 255 - raw.reshape(shape)})
        assert other['classLabel_probs'] != wanted['classLabel_probs']
    assert found['labels'] == list(LABELS)
    assert found['tolerance'] == dict(
        name=f'export-{arithmetic}', max_relative=1e-4 if kind == 'bgr' else 2e-2
    )


def test_golden_photo_is_what_the_pipeline_makes_of_it(packages):
    folder, found = golden(packages['rgb'], 'rgb')
    photo = Image.open(folder / found['photos'][0]['file'])
    scale = 40 / min(photo.size)
    size = [int(side * scale) for side in photo.size]
    large = photo.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((a - b) / 2) for a, b in zip(size, (32, 24)))
    wanted = large.crop((left, top, left + 32, top + 24))
    raw = (folder / found['photos'][0]['prepared']['pixels']).read_bytes()
    assert raw == wanted.tobytes()
    assert 'srgb' in photo.info


@pytest.mark.parametrize('kind', KINDS)
def test_a_transparent_photo_gives_what_the_loader_makes_of_it(packages, kind):
    folder, found = golden(packages[kind], kind)
    solid, transparent = (folder / photo['file'] for photo in found['photos'])
    modes = ('L', 'LA') if kind == 'gray' else ('RGB', 'RGBA')
    assert tuple(Image.open(p).mode for p in (solid, transparent)) == modes
    alpha = np.array(Image.open(transparent))[..., -1]
    assert set(np.unique(alpha)) == set(range(256))
    load = LoadImageFromFile(color_type='grayscale' if kind == 'gray' else 'color')
    first, second = (load(dict(img_path=str(p)))['img'] for p in (solid, transparent))
    assert np.array_equal(first, second)
    raw = [(folder / photo['prepared']['pixels']).read_bytes() for photo in found['photos']]
    assert raw[0] == raw[1]


@pytest.mark.parametrize(
    ('kind', 'steps'),
    [
        (
            'rgb',
            [
                '.resizeEdge(.short, pixels: 40, .pillow(.bicubic))',
                '.centerCrop(width: 32, height: 24)',
            ],
        ),
        ('bgr', ['.resize(width: 32, height: 24, .openCV(.linear))']),
        ('gray', ['.efficientNetCrop(side: 24, padding: 32, .pillow(.bicubic))']),
    ],
)
def test_steps_are_those_of_the_pipeline(packages, kind, steps):
    found = info(packages[kind], kind)
    assert [s.strip() for s in found['steps'][1:-1].split(',\n') if s.strip()] == steps
    assert found['missingStep'] == 'nil'


@pytest.mark.parametrize('kind', KINDS)
def test_readme_is_about_this_model(packages, kind):
    text = (packages[kind] / 'README.md').read_text()
    assert f'import {LIBRARY[kind]}\n' in text
    assert f'{LIBRARY[kind]}Predictor.load()' in text
    assert 'No Mac has compiled this package' in text
    for block in re.findall('```swift\n(.*?)```', text, re.DOTALL):
        assert syntax_errors(block) == []
