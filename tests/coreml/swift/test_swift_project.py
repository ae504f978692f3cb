"""The Xcode project of the example: every object is there, and every file."""

import plistlib

import pytest
from swift_models import KINDS

LIBRARY = dict(rgb='MyRgb', bgr='MyBgr', gray='MyGray')
#: Keys whose values name other objects.
LINKS = {
    'buildConfigurationList',
    'buildConfigurations',
    'buildPhases',
    'children',
    'fileRef',
    'files',
    'mainGroup',
    'packageProductDependencies',
    'packageReferences',
    'productRef',
    'productReference',
    'productRefGroup',
    'targets',
}


def opened(package, name):
    file = package / f'Example/{name}Example.xcodeproj/project.pbxproj'
    return plistlib.loads(file.read_bytes())


def reached(project):
    """Identifiers that can be reached from the root; a link to nothing raises."""
    found, waiting = set(), [project['rootObject']]
    while waiting:
        identifier = waiting.pop()
        if identifier in found:
            continue
        found.add(identifier)
        for key, value in project['objects'][identifier].items():
            if key in LINKS:
                waiting += value if isinstance(value, list) else [value]
    return found


def of_kind(project, isa):
    return [o for o in project['objects'].values() if o['isa'] == isa]


@pytest.mark.parametrize('kind', KINDS)
def test_every_object_is_linked(packages, kind):
    project = opened(packages[kind], LIBRARY[kind])
    assert reached(project) == set(project['objects'])
    assert all(len(identifier) == 24 for identifier in project['objects'])


def test_a_link_to_nothing_is_noticed(packages):
    project = opened(packages['rgb'], 'MyRgb')
    (target,) = of_kind(project, 'PBXNativeTarget')
    del project['objects'][target['productReference']]
    with pytest.raises(KeyError):
        reached(project)


@pytest.mark.parametrize('kind', KINDS)
def test_it_builds_all_sources_with_the_package(packages, kind):
    package, name = packages[kind], LIBRARY[kind]
    project = opened(package, name)
    sources = {p.name for p in (package / f'Example/{name}Example').iterdir()}
    (phase,) = of_kind(project, 'PBXSourcesBuildPhase')
    objects = project['objects']
    built = {objects[objects[f]['fileRef']]['path'] for f in phase['files']}
    assert built == sources >= {'Camera.swift', 'ContentView.swift', 'ExampleApp.swift'}
    (local,) = of_kind(project, 'XCLocalSwiftPackageReference')
    assert (package / 'Example' / local['relativePath'] / 'Package.swift').is_file()
    (product,) = of_kind(project, 'XCSwiftPackageProductDependency')
    assert product['productName'] == name


@pytest.mark.parametrize(('kind', 'ios'), [('rgb', '16.0'), ('gray', '16.0')])
def test_it_asks_for_the_camera_and_a_system_that_has_the_picker(packages, kind, ios):
    project = opened(packages[kind], LIBRARY[kind])
    (target,) = of_kind(project, 'PBXNativeTarget')
    objects = project['objects']
    kinds = objects[target['buildConfigurationList']]['buildConfigurations']
    for settings in (objects[k]['buildSettings'] for k in kinds):
        assert settings['INFOPLIST_KEY_NSCameraUsageDescription']
        assert settings['IPHONEOS_DEPLOYMENT_TARGET'] == ios
