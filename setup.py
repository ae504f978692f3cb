"""Package metadata; configs and tools are installed under ``.mim``.

``.mim`` is where mmengine looks for ``mmpretrain_mobileone_ext::...``. In the repository it holds
symbolic links, in a wheel copies.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmpretrain_mobileone_ext'
COREML = ['coremltools>=9,<10', 'numpy<2.4']  # apple/coremltools#2633
TEST = [
    'pytest>=7',
    'pytest-xdist>=3',
    'hypothesis>=6',
    'scikit-learn>=1.0',
    'jsonschema>=4',
    'tree-sitter>=0.23',
    'tree-sitter-swift>=0.7',
    'timm>=1.0',
    'safetensors>=0.4',
]


class BuildWithConfigs(build_py):
    """``build_py`` that copies configs, tools and the model index."""

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            return
        target = Path(self.build_lib) / PACKAGE / '.mim'
        for name in ('configs', 'tools'):
            shutil.copytree(
                ROOT / name,
                target / name,
                ignore=shutil.ignore_patterns('__pycache__'),
                dirs_exist_ok=True,
            )
        for name in ('model-index.yml', 'requirements-tested.txt'):
            shutil.copy(ROOT / name, target)


def version() -> str:
    scope: dict = {}
    exec((ROOT / PACKAGE / 'utils/version.py').read_text('utf-8'), scope)
    return scope['__version__']


setup(
    name='mmpretrain-mobileone-ext',
    version=version(),
    description='Configurable MobileOne for MMPretrain, verified down to the Core ML file',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={
        PACKAGE: [
            'models/online/kernels/*.cpp',
            'models/online/kernels/*.h',
            'report/templates/*',
            'coreml/swift/bench.schema.json',
            'coreml/swift/templates/*',
            'coreml/swift/templates/*/*',
            'commands/compare/published.json',
        ]
    },
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.9',
    install_requires=[
        'torch>=2.1',
        'torchvision',
        'filelock>=3.4',
        'mmengine>=0.10.3',
        'mmpretrain>=1.2.0',
        'jinja2>=3',
        'matplotlib',
        'pyyaml',
        'rich>=12',
        # mmengine 0.10 resolves `package::config` through pkg_resources.
        'setuptools<81',
    ],
    extras_require={
        'mmcv': ['mmcv>=2.0.0,<2.4.0'],
        'mmdeploy': [*COREML, 'mmdeploy>=1.3.1,<1.4', 'onnxruntime<1.27'],
        'ncnn': ['ncnn', 'pnnx'],
        'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
        'mmcv-lite': ['mmcv-lite>=2.0.0,<2.4.0'],
        'coreml': COREML,
        'heic': ['pillow-heif>=0.16'],
        'demo': [*COREML, 'scikit-learn>=1.0'],
        'bench': ['jsonschema>=4'],
        'test': [*COREML, *TEST],
        'dev': [*COREML, *TEST, 'ruff==0.17.6', 'mypy==2.4.1'],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
    ],
)
