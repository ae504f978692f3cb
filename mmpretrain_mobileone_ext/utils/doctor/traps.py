"""Known traps of the stack: facts to findings, one function a trap."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterator, List

from .facts import LEVELS, MMCV, OWNERS, Facts, Finding, fits, numbers, uses_onedl

_NEEDED = (
    'torch',
    'torchvision',
    'mmengine',
    'mmpretrain',
    'coremltools',
    'mmpretrain-mobileone-ext',
)
#: What the main job imports, as the tested matrix has it.
MAIN_JOB = (*_NEEDED, 'mmcv-lite', 'matplotlib', 'numpy', 'setuptools')
_OPENCV = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)
_OURS = 'mmpretrain-mobileone-ext'
#: The extra of this package that brings a package and what goes with it.
_EXTRAS = {
    'mmengine': 'mmcv-lite',
    'mmpretrain': 'mmcv-lite',
    'mmcv-lite': 'mmcv-lite',
    'mmcv': 'mmcv',
    'coremltools': 'coreml',
    'onedl-mmengine': 'onedl',
    'onedl-mmpretrain': 'onedl',
    'onedl-mmcv': 'onedl',
}
_PYTHON = '>=3.9'
_PYTHON_TESTED = '<3.14'
_MMCV_RANGE = '>=2.0.0,<2.4.0'
_COREMLTOOLS_RANGE = '>=9,<10'


Trap = Callable[[Facts], Iterator[Finding]]
_TRAPS: List[Trap] = []
_error, _warning, _note = (partial(Finding, level) for level in LEVELS)


def find_traps(facts: Facts) -> Iterator[Finding]:
    """Every trap that these facts hold, errors first."""
    found = [finding for trap in _TRAPS for finding in trap(facts)]
    return iter(sorted(found, key=lambda f: LEVELS.index(f.level)))


def _trap(find: Trap) -> Trap:
    """Let :func:`find_traps` ask a function."""
    _TRAPS.append(find)
    return find


@_trap
def _python(facts: Facts) -> Iterator[Finding]:
    if not fits(facts.python, _PYTHON):
        yield _error(
            f'Python {facts.python}',
            'the package needs 3.9 or newer',
            'make an environment with Python 3.11',
        )
    elif not fits(facts.python, _PYTHON_TESTED):
        yield _warning(
            f'Python {facts.python}',
            'newer than what was tested (3.9 to 3.13)',
            'use Python 3.11 if something fails',
        )


@_trap
def _missing(facts: Facts) -> Iterator[Finding]:
    for name in _NEEDED:
        if not any(owner in facts.installed for owner in OWNERS.get(name, (name,))):
            yield _error(
                f'{name} is not installed',
                'training, exporting and scoring need it',
                _install(name, facts),
            )
    if not any(name in facts.installed for name in MMCV):
        yield _error(
            'neither mmcv nor mmcv-lite is installed, nor onedl-mmcv',
            'mmpretrain needs one of them',
            _install('mmcv-lite', facts),
        )


def _install(name: str, facts: Facts) -> str:
    if name == 'mmpretrain-mobileone-ext':
        return "pip install -e '.[mmcv-lite,coreml]'"
    fork = f'onedl-{"mmcv" if name in MMCV else name}'
    if uses_onedl(facts) and (name in OWNERS or name in MMCV):
        name = fork
    extra = _EXTRAS.get(name)
    more = f"; all that goes with it: pip install '{_OURS}[{extra}]'" if extra else ''
    return f"pip install '{name}{facts.tested.get(name, '')}'{more}"


@_trap
def _two_owners(facts: Facts) -> Iterator[Finding]:
    for module, owners in OWNERS.items():
        both = [name for name in owners if name in facts.installed]
        if len(both) > 1:
            kept = both[-1] if module == 'mmcv' else both[0]
            yield _warning(
                f'{" and ".join(both)} are {"both" if len(both) == 2 else "all"} installed',
                f'both own the module {module}: the later one overwrote files of the '
                'earlier one, and removing either breaks the other',
                f'pip uninstall -y {" ".join(both)} && pip install '
                f"'{kept}{facts.tested.get(kept, '')}'",
            )


@_trap
def _damaged(facts: Facts) -> Iterator[Finding]:
    for name, file in facts.damaged.items():
        yield _error(
            f'{name} lacks {file}',
            'files of it were removed, as by uninstalling mmcv or mmcv-lite over the other one',
            f'pip install --force-reinstall --no-deps {name}=={facts.installed[name]}',
        )


@_trap
def _mmcv_without_ops(facts: Facts) -> Iterator[Finding]:
    alone = sum(name in facts.installed for name in MMCV) == 1
    if 'mmcv' in facts.installed and not facts.compiled_ops and alone:
        yield _warning(
            f'mmcv {facts.installed["mmcv"]} without compiled operators',
            'it was built from source without them, so mmcv.ops '
            'cannot be imported; classifiers do not use it',
            'replace it by mmcv-lite, or build it with MMCV_WITH_OPS=1',
        )


@_trap
def _ranges(facts: Facts) -> Iterator[Finding]:
    for name in MMCV:
        version = facts.installed.get(name)
        if version and not fits(version, _MMCV_RANGE):
            yield _error(
                f'{name} {version}',
                f'mmpretrain accepts {_MMCV_RANGE} and stops at import',
                _install(name, facts),
            )
    version = facts.installed.get('coremltools')
    if version and not fits(version, _COREMLTOOLS_RANGE):
        yield _warning(
            f'coremltools {version}',
            'the exporter is written for 9.x',
            _install('coremltools', facts),
        )


@_trap
def _torchvision(facts: Facts) -> Iterator[Finding]:
    torch, vision = (facts.installed.get(n) for n in ('torch', 'torchvision'))
    if not torch or not vision:
        return
    # torch 2.n and torchvision 0.(n + 15) are released together.
    major, minor = (*numbers(torch), 0, 0)[:2]
    wanted = (0, minor + 15)
    needs = facts.requires.get('torchvision', {}).get('torch', '')
    pair = (*numbers(vision), 0, 0)[:2]
    if (major == 2 and pair != wanted) or not fits(torch, needs):
        yield _error(
            f'torch {torch} with torchvision {vision}',
            'they are released in pairs; another one fails at import '
            '("operator torchvision::nms does not exist")',
            'install both in one command: pip install '
            f"'torch=={torch.split('+')[0]}' 'torchvision==0.{wanted[1]}.*'"
            if major == 2
            else 'pip install torch torchvision',
        )


@_trap
def _numpy(facts: Facts) -> Iterator[Finding]:
    version = facts.installed.get('numpy', '0')
    tools = facts.installed.get('coremltools', '0')
    if fits(version, '>=2.4') and fits(tools, '>=9,<9.1'):
        yield _warning(
            f'numpy {version} with coremltools {tools}',
            'its int operation breaks (apple/coremltools#2633): '
            'ShuffleNetV2 and EfficientNet do not convert; MobileOne does',
            "pip install 'numpy<2.4'",
        )


@_trap
def _setuptools(facts: Facts) -> Iterator[Finding]:
    version = facts.installed.get('setuptools')
    if 'mmengine' not in facts.installed:
        return
    if version is None or fits(version, '>=81'):
        yield _error(
            f'setuptools {version}' if version else 'setuptools is not installed',
            'mmengine 0.10 imports pkg_resources to find configs of a '
            'package, which setuptools 81 and newer lack',
            "pip install 'setuptools<81'",
        )


@_trap
def _protobuf(facts: Facts) -> Iterator[Finding]:
    needs = facts.requires.get('mmdeploy', {}).get('protobuf')
    version = facts.installed.get('protobuf')
    if needs and version and not fits(version, needs):
        yield _warning(
            f'protobuf {version} with mmdeploy {facts.installed.get("mmdeploy", "")}',
            f'mmdeploy asks for protobuf{needs}; coremltools 9 works with that one too',
            f"pip install 'protobuf{needs}'",
        )


@_trap
def _opencv(facts: Facts) -> Iterator[Finding]:
    found = [name for name in _OPENCV if name in facts.installed]
    if len(found) > 1:
        yield _warning(
            f'{" and ".join(found)} are installed together',
            'all own the module cv2 and overwrite each other',
            f'pip uninstall -y {" ".join(found)} && pip install {found[0]}',
        )


@_trap
def _compiler(facts: Facts) -> Iterator[Finding]:
    if facts.compiler is None:
        yield _warning(
            'no C++ compiler ($CXX, c++, g++, clang++)',
            'depthwise units train without the compiled kernels: the same numbers, more slowly',
            'install g++ or clang',
        )


@_trap
def _torch_load(facts: Facts) -> Iterator[Finding]:
    version = facts.installed.get('torch', '0')
    if fits(version, '>=2.6') and 'mmengine' in facts.installed:
        yield _note(
            f'torch {version} loads weights only',
            "a Runner's own checkpoints then fail under mmengine alone; with "
            'this package imported they load, as data',
        )
    if 'onedl-mmengine' in facts.installed:
        yield _note(
            f'onedl-mmengine {facts.installed["onedl-mmengine"]} may run a checkpoint',
            'it does so where torch would load weights only; with this package imported '
            'checkpoints load as data',
        )


@_trap
def _matrix(facts: Facts) -> Iterator[Finding]:
    if not facts.tested:
        yield _warning(
            'requirements-tested.txt is missing',
            'versions cannot be compared with the tested ones',
            'install the package again',
        )


@_trap
def _system(facts: Facts) -> Iterator[Finding]:
    if facts.system not in ('Linux', 'Darwin'):
        yield _warning(
            f'{facts.system} is not tested', 'the package was developed and tested on Linux'
        )
