"""Installations that do not exist: facts, and metadata on disk."""

from dataclasses import replace

from mmpretrain_mobileone_ext.utils.doctor.facts import Facts

TESTED = {
    'torch': '==2.14.1',
    'torchvision': '==0.29.1',
    'mmengine': '==0.10.7',
    'mmcv-lite': '==2.2.0',
    'mmpretrain': '==1.2.0',
    'onedl-mmengine': '==0.10.12',
    'onedl-mmcv': '==2.3.6',
    'onedl-mmpretrain': '==1.3.6',
    'coremltools': '==9.0',
    'numpy': '==2.3.5',
    'setuptools': '<81',
    'mmdeploy': '==1.3.1',
}
GOOD = Facts(
    python='3.11.7',
    system='Linux',
    tested=TESTED,
    installed={
        'torch': '2.14.1',
        'torchvision': '0.29.1',
        'mmengine': '0.10.7',
        'mmcv-lite': '2.2.0',
        'mmpretrain': '1.2.0',
        'coremltools': '9.0',
        'numpy': '2.3.5',
        'setuptools': '80.9.0',
        'mmpretrain-mobileone-ext': '1.0',
    },
    compiler='/usr/bin/c++',
)

#: The same with the maintained fork, which needs no pkg_resources.
ONEDL = replace(
    GOOD,
    installed={
        **{k: v for k, v in GOOD.installed.items() if not k.startswith(('mm', 'setup'))},
        'onedl-mmengine': '0.10.12',
        'onedl-mmcv': '2.3.6',
        'onedl-mmpretrain': '1.3.6',
        'mmpretrain-mobileone-ext': '1.0',
    },
)


def with_installed(facts=GOOD, **versions):
    """Facts with other versions; None takes a package away."""
    names = {k.replace('_', '-'): v for k, v in versions.items()}
    found = {**facts.installed, **names}
    return replace(facts, installed={k: v for k, v in found.items() if v is not None})


def install(folder, name, version, requires=(), files=()):
    """Write metadata of a package, and its files, as pip does."""
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir()
    lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
    lines += [f'Requires-Dist: {line}' for line in requires]
    (info / 'METADATA').write_text('\n'.join(lines) + '\n')
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text('')
    record = [*files, f'{info.name}/METADATA', f'{info.name}/RECORD']
    (info / 'RECORD').write_text(''.join(f'{f},,\n' for f in record))
    return info
