"""Build and run a generated package with the compiler of Linux.

``apple/`` has declarations of Apple's frameworks with just enough behind them: pixel buffers in
plain memory, and a Core ML and a Core AI that answer with recorded probabilities where they get
exactly the recorded pixels. Two imports differ from what a Mac compiles: Darwin and XCTest's
attachments are shims there.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from mmpretrain_mobileone_ext.coreml.formats import format_of

APPLE = Path(__file__).parent / 'apple'
MODULES = (
    'AppleBasics',
    'CoreVideo',
    'CoreGraphics',
    'ImageIO',
    'UIKit',
    'SwiftUI',
    'PhotosUI',
    'AVFoundation',
    'CoreML',
    'CoreAI',
    'DarwinShims',
    'XCTestShims',
)
_FORMATS = dict(gray=0x4C303038, color=0x42475241)


def build_modules(folder):
    """Compile the stand-ins into ``folder``."""
    for name in MODULES:
        _run(
            [
                'swiftc',
                '-O',  # as Apple's frameworks are, whatever the package is
                '-emit-library',
                '-emit-module',
                '-module-name',
                name,
                '-module-link-name',
                name,
                '-I.',
                '-L.',
                APPLE / f'{name}.swift',
                '-o',
                f'lib{name}.so',
            ],
            folder,
        )
    return folder


def copy_package(package, folder, language=5):
    """A copy whose imports Linux can resolve, the example as a target, and the recorded answers.

    Args:
        language: mode of Swift that all of it is compiled in, 5 or 6.
    """
    copied = folder / package.name.replace(' ', '-')
    shutil.copytree(package, copied)
    machine = next(copied.rglob('Machine.swift'))
    _replace(machine, 'import Darwin\n', 'import DarwinShims\n')
    _replace(
        next(copied.rglob('BenchTests.swift')),
        'import XCTest\n',
        'import XCTest\nimport XCTestShims\n',
    )
    manifest = copied / 'Package.swift'
    example = next((copied / 'Example').glob('*Example')).name
    library = example[: -len('Example')]
    _replace(
        manifest,
        '        .testTarget(',
        f'        .executableTarget(name: "{example}", dependencies: ["{library}"], '
        f'path: "Example/{example}"),\n        .testTarget(',
    )
    if language == 6:
        _replace(manifest, 'swift-tools-version: 5.9', 'swift-tools-version: 6.0')
        _replace(manifest, '    ]\n)\n', '    ],\n    swiftLanguageModes: [.v6]\n)\n')
    _record(copied)
    return copied


def swift(package, modules, command, *arguments):
    """Run ``swift COMMAND`` in a package; returns the finished process."""
    flags = [
        '-Xswiftc',
        f'-I{modules}',
        '-Xlinker',
        f'-L{modules}',
        '-Xlinker',
        '-rpath',
        '-Xlinker',
        str(modules),
        '-Xswiftc',
        '-strict-concurrency=complete',
    ]
    return subprocess.run(
        [
            'env',
            f'FAKE_COREML={package / "recorded.json"}',
            f'BENCH_OUT={package / "bench.json"}',
            'swift',
            command,
            *flags,
            *arguments,
        ],
        cwd=package,
        check=False,
        capture_output=True,
        text=True,
    )


def _run(command, folder):
    done = subprocess.run(
        [*map(str, command)], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def _replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def _record(package):
    """Write the model's interface and its answers to the golden pixels."""
    model = next(package.glob('Sources/*/Model/*'))
    program = format_of(model).describe(model)
    feature = program.inputs[0]
    _, channels, height, width = feature.shape
    folder = next(package.glob('Tests/*/Golden'))
    golden = json.loads((folder / 'golden.json').read_text())
    answers = {}
    for case in [*golden['cases'], *(p['prepared'] for p in golden['photos'])]:
        raw = np.frombuffer((folder / case['pixels']).read_bytes(), np.uint8)
        pixels = raw.reshape(height, width, channels)
        answers[_fnv(_given(pixels, program))] = case['probabilities']
    for photo in golden['photos']:
        pixels = np.array(Image.open(folder / photo['file']))
        kind = pixels.shape[2] if pixels.ndim == 3 else 1
        head = f'{pixels.shape[1]} {pixels.shape[0]} {kind} 1\n'.encode()
        (folder / photo['file']).write_bytes(head + pixels.tobytes())
    (package / 'recorded.json').write_text(
        json.dumps(
            dict(
                input=feature.name,
                label=program.predicted_feature_name,
                probabilities=program.predicted_probabilities_name,
                width=width,
                height=height,
                channels=channels,
                format=_FORMATS['gray' if channels == 1 else 'color'],
                labels=program.classes,
                answers=answers,
            )
        )
    )


def _given(pixels, program):
    """Bytes that a device's runtime gets of (H, W, 3) RGB or (H, W, 1)."""
    if program.inputs[0].kind == 'tensor':
        planes = [pixels[..., i] for i in range(pixels.shape[2])]
        if program.metadata['channel_order'] == 'BGR':
            planes.reverse()
        return b''.join(plane.astype('<f4').tobytes() for plane in planes)
    if pixels.shape[2] == 3:
        alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        pixels = np.concatenate([pixels[..., ::-1], alpha], 2)
    return pixels.tobytes()


def _fnv(content):
    """FNV-1a, 64 bits, as the stand-in for Core ML computes it."""
    found = 0xCBF29CE484222325
    for byte in content:
        found = ((found ^ byte) * 0x100000001B3) % 2**64
    return str(found)
