"""Files around the package: they agree with each other and with what they speak of."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from setuptools import distutils  # noqa: F401  (gives Python 3.12 its distutils)

import mmpretrain_mobileone_ext as package

ROOT = Path(__file__).resolve().parents[1]


def text(name):
    return (ROOT / name).read_text('utf-8')


@pytest.fixture(scope='module')
def metadata():
    """What setup.py gives to setuptools."""
    from distutils.core import run_setup

    return run_setup(str(ROOT / 'setup.py'), stop_after='init')


def names(requirements):
    return {re.match(r'[\w.-]+', line).group() for line in requirements}


def test_one_version_everywhere(metadata):
    version = package.__version__
    assert metadata.get_version() == version
    assert yaml.safe_load(text('CITATION.cff'))['version'] == version
    assert re.search(r'^## (\S+)', text('CHANGELOG.md'), re.MULTILINE).group(1) == version


def test_one_address_everywhere(metadata):
    url = metadata.get_url()
    assert yaml.safe_load(text('CITATION.cff'))['repository-code'] == url
    assert all(link.startswith(url) for link in metadata.metadata.project_urls.values())


def test_one_list_of_pythons(metadata):
    found = re.findall(r'Python :: (3\.\d+)', '\n'.join(metadata.get_classifiers()))
    (assigned,) = [
        node.value
        for node in ast.parse(text('noxfile.py')).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'PYTHONS'
    ]
    jobs = yaml.safe_load(text('.github/workflows/ci.yml'))['jobs']
    tested = [jobs['check']['steps'][1]['with']['python-version']]
    assert found == ast.literal_eval(assigned)
    assert sorted(found) == sorted(tested + jobs['pythons']['strategy']['matrix']['python'])


def test_the_workflow_runs_what_ci_runs():
    steps = yaml.safe_load(text('.github/workflows/ci.yml'))['jobs']['check']['steps']
    assert [s['run'] for s in steps if 'run' in s] == ['bash .ci/run']


def test_make_knows_what_ci_calls():
    targets = set(re.findall(r'^([\w-]+):', text('Makefile'), re.MULTILINE))
    called = re.findall(r'^make ([\w-]+)', text('.ci/run'), re.MULTILINE)
    assert len(called) > 3
    assert set(called) <= targets
    for path in re.findall(r'\btests/[\w/.]+', text('Makefile').replace('*.py', '')):
        assert list(ROOT.glob(f'{path}*')), path


def test_no_stack_is_required_by_name(metadata):
    """Else pip would install OpenMMLab's packages over OneDL's, which own the same modules."""
    stacks = ('mmengine', 'mmpretrain', 'mmcv', 'onedl')
    assert not [r for r in metadata.install_requires if r.startswith(stacks)]
    extras = {k: names(v) for k, v in metadata.extras_require.items()}
    assert extras['mmcv-lite'] >= {'mmengine', 'mmpretrain', 'mmcv-lite'}
    assert extras['mmcv'] >= {'mmengine', 'mmpretrain', 'mmcv'}
    assert extras['onedl'] == {'onedl-mmengine', 'onedl-mmpretrain', 'onedl-mmcv'}
    both = [k for k, v in extras.items() if v & extras['onedl'] and v & extras['mmcv-lite']]
    assert both == []


def test_all_is_all_that_goes_together(metadata):
    extras = {k: names(v) for k, v in metadata.extras_require.items()}
    # Another stack, an old protobuf, converters that few need, and what developers need.
    apart = {'openmmlab', 'mmcv', 'onedl', 'mmdeploy', 'ncnn', 'docs', 'test', 'dev', 'all'}
    for name in extras.keys() - apart:
        assert extras[name] <= extras['all'], name


def test_a_page_elsewhere_leads_to_the_repository(metadata):
    """An index shows the README without the files beside it."""
    links = re.findall(r'\]\(([^)\s]+)', metadata.get_long_description())
    assert len(links) > 3
    assert all(link.startswith(('https://', 'http://', '#')) for link in links)
    pictures = re.findall(r'!\[[^\]]*\]\(([^)]+)', metadata.get_long_description())
    for picture in pictures:
        if picture.startswith(metadata.get_url()):
            assert (ROOT / picture.partition('/raw/main/')[2]).is_file()


def test_files_that_are_named_exist():
    for name in ('SECURITY.md', 'CHANGELOG.md', '.github/pull_request_template.md'):
        for found in re.findall(r'\b([A-Z]{4,}\.md)\b', text(name)):
            assert (ROOT / found).is_file()
    included = [line.split()[1:] for line in text('MANIFEST.in').splitlines() if 'include ' in line]
    for name in (n for line in included for n in line if '*' not in n and '__' not in n):
        assert (ROOT / name).is_file(), name
