"""Package metadata; configs and tools are installed under ``.mim``.

``.mim`` is where mmengine looks for ``mmpretrain_mobileone_ext::...``. In the repository it holds
symbolic links, in a wheel copies.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmpretrain_mobileone_ext'
URL = f'https://github.com/mmpretrain-mobileone-ext/{PACKAGE}'
# OpenMMLab's own packages, or those of OneDL, the maintained fork with the same modules: one of
# the extras mmcv-lite, mmcv and onedl is to be chosen, so that neither is required by name.
# mmengine 0.10 resolves `package::config` through pkg_resources.
OPENMMLAB = ['mmengine>=0.10.3', 'mmpretrain>=1.2.0', 'setuptools<81']
MMCV_LITE = [*OPENMMLAB, 'mmcv-lite>=2.0.0,<2.4.0']
ONEDL = ['onedl-mmengine>=0.10.8', 'onedl-mmpretrain>=1.3.2', 'onedl-mmcv>=2.3.0,<2.4.0']
COREML = ['coremltools>=9,<10', 'numpy<2.4']  # apple/coremltools#2633
#: Betas, pinned to what was tried; a newer one may write other files.
CORE_AI = [
    f'{package}; python_version >= "3.11"'
    for package in ('coreai-core==1.0.0b3', 'coreai-torch==0.4.3', 'coreai-opt==0.4.0')
]
DOCS = ['sphinx>=7', 'myst-parser>=2', 'furo', 'sphinx-copybutton']
HEIC = ['pillow-heif>=0.16']
ONNX = ['onnx', 'onnxruntime', 'onnxscript']
DEMO = [*COREML, 'scikit-learn>=1.0']
BENCH = ['jsonschema>=4', 'scipy>=1.9']
NOTEBOOK = ['nbclient>=0.8', 'ipykernel', 'nbformat', 'ipywidgets']
TEST = [
    'coreai-opt==0.4.0; python_version >= "3.11"',  # an oracle of compressed weights, too
    'pytest>=7',
    'pytest-xdist>=3',
    'hypothesis>=6',
    'scikit-learn>=1.0',
    'jsonschema>=4',
    'scipy>=1.9',
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


def long_description() -> str:
    """The README; a page elsewhere has no files beside it, so that links lead to the repository."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    text = re.sub(r'(!\[[^\]]*\]\(|<img[^>]* src=")(?!https?:)', rf'\g<1>{URL}/raw/main/', text)
    return re.sub(r'((?<!!)\[[^\]]*\]\()(?!https?:|#|mailto:)', rf'\g<1>{URL}/blob/main/', text)


setup(
    name='mmpretrain-mobileone-ext',
    version=version(),
    description='Configurable MobileOne for MMPretrain, verified down to the Core ML file',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    author=f'{PACKAGE} contributors',
    url=URL,
    project_urls={
        'Source': URL,
        'Issues': f'{URL}/issues',
        'Changelog': f'{URL}/blob/main/CHANGELOG.md',
    },
    keywords=[
        *('mobileone', 'mmpretrain', 'openmmlab', 'onedl', 'coreml', 'ios', 'pytorch'),
        *('re-parameterization', 'image classification', 'model compression'),
    ],
    license='Apache-2.0',
    py_modules=['mobileone_ext'],
    entry_points={'console_scripts': ['mobileone-ext = mobileone_ext:main']},
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={
        PACKAGE: [
            'models/online/kernels/*.cpp',
            'models/online/kernels/*.h',
            'report/templates/**/*',
            'coreml/swift/bench.schema.json',
            'coreml/swift/templates/**/*',
            'commands/compare/published.json',
            'coreml/neural_engine/latency/*.json',
            'coreml/neural_engine/latency/layers.json.gz',
        ]
    },
    cmdclass={'build_py': BuildWithConfigs},
    python_requires='>=3.9',
    install_requires=[
        'torch>=2.1',
        'torchvision',
        'filelock>=3.4',
        'jinja2>=3',
        'matplotlib',
        'pyyaml',
        'rich>=12',
    ],
    extras_require={
        'openmmlab': OPENMMLAB,
        'mmcv-lite': MMCV_LITE,
        'mmcv': [*OPENMMLAB, 'mmcv>=2.0.0,<2.4.0'],
        'onedl': ONEDL,
        'all': [
            *MMCV_LITE,
            *DEMO,
            *CORE_AI,
            *HEIC,
            *ONNX,
            *BENCH,
            *NOTEBOOK,
            'timm>=1.0',
            'safetensors>=0.4',
        ],
        'mmdeploy': [*COREML, 'mmdeploy>=1.3.1,<1.4', 'onnxruntime<1.27'],
        'ncnn': ['ncnn', 'pnnx'],
        'onnx': ONNX,
        'coreml': COREML,
        'coreai': CORE_AI,
        'heic': HEIC,
        'demo': DEMO,
        'bench': BENCH,
        'notebook': NOTEBOOK,
        'docs': DOCS,
        'test': [*COREML, *CORE_AI, *TEST, *NOTEBOOK],
        'dev': [*COREML, *CORE_AI, *DOCS, *TEST, *NOTEBOOK, 'ruff==0.17.6', 'mypy==2.4.1'],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: MacOS',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: C++',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(9, 14)),
        'Programming Language :: Swift',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
