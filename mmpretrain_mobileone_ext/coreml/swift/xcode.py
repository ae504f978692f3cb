"""The Xcode project of a package's example app, as an XML property list."""

from __future__ import annotations

import hashlib
import plistlib
from collections.abc import Sequence
from typing import Any

#: Xcode 15: the first that knows local packages.
_OBJECT_VERSION = '60'
_LATEST_UPGRADE = '1500'
#: SwiftUI's photo picker is of iOS 16.
_OLDEST_IOS = 16.0
_CAMERA = 'To classify what the camera sees.'


def example_project(name: str, example: str, ios: str, files: Sequence[str]) -> bytes:
    """A project with one app, which is built with the package in the folder above.

    Args:
        name: of the library.
        example: of the app, and of the folder with its sources.
        ios: oldest system of the package, e.g. '15.0'.
        files: names of the sources.

    Returns:
        The content of ``project.pbxproj``.
    """
    project = _Project()
    sources = [_file(project, 'sourcecode.swift', path) for path in files]
    app = project.add(
        isa='PBXFileReference',
        explicitFileType='wrapper.application',
        includeInIndex='0',
        path=f'{example}.app',
        sourceTree='BUILT_PRODUCTS_DIR',
    )
    group = project.add(isa='PBXGroup', children=sources, path=example, sourceTree='<group>')
    products = project.add(isa='PBXGroup', children=[app], name='Products', sourceTree='<group>')
    package = project.add(isa='XCLocalSwiftPackageReference', relativePath='..')
    library = project.add(isa='XCSwiftPackageProductDependency', productName=name)
    target = project.add(
        isa='PBXNativeTarget',
        name=example,
        productName=example,
        productReference=app,
        productType='com.apple.product-type.application',
        buildConfigurationList=_configurations(project, _app_settings(example, ios)),
        buildPhases=_phases(project, sources, library),
        buildRules=[],
        dependencies=[],
        packageProductDependencies=[library],
    )
    root = project.add(
        isa='PBXProject',
        attributes=dict(LastUpgradeCheck=_LATEST_UPGRADE, BuildIndependentTargetsInParallel='1'),
        buildConfigurationList=_configurations(project, dict(SDKROOT='iphoneos')),
        compatibilityVersion='Xcode 15.0',
        developmentRegion='en',
        hasScannedForEncodings='0',
        knownRegions=['en', 'Base'],
        mainGroup=project.add(isa='PBXGroup', children=[group, products], sourceTree='<group>'),
        packageReferences=[package],
        productRefGroup=products,
        projectDirPath='',
        projectRoot='',
        targets=[target],
    )
    return plistlib.dumps(
        dict(
            archiveVersion='1',
            classes={},
            objectVersion=_OBJECT_VERSION,
            objects=project.objects,
            rootObject=root,
        )
    )


class _Project:
    """Objects by their identifiers of 24 hexadecimal digits."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}

    def add(self, **content: Any) -> str:
        number = f'{len(self.objects)} {content["isa"]}'
        identifier = hashlib.sha256(number.encode()).hexdigest()[:24].upper()
        self.objects[identifier] = content
        return identifier


def _file(project: _Project, kind: str, path: str) -> str:
    return project.add(
        isa='PBXFileReference', lastKnownFileType=kind, path=path, sourceTree='<group>'
    )


def _phases(project: _Project, sources: Sequence[str], library: str) -> list[str]:
    """What is compiled, what is linked, and no resources."""
    built = [project.add(isa='PBXBuildFile', fileRef=source) for source in sources]
    linked = [project.add(isa='PBXBuildFile', productRef=library)]
    return [
        project.add(
            isa=isa,
            buildActionMask='2147483647',
            files=files,
            runOnlyForDeploymentPostprocessing='0',
        )
        for isa, files in (
            ('PBXSourcesBuildPhase', built),
            ('PBXFrameworksBuildPhase', linked),
            ('PBXResourcesBuildPhase', []),
        )
    ]


def _configurations(project: _Project, settings: dict[str, Any]) -> str:
    kinds = dict(
        Debug=dict(SWIFT_OPTIMIZATION_LEVEL='-Onone', ONLY_ACTIVE_ARCH='YES'),
        Release=dict(SWIFT_OPTIMIZATION_LEVEL='-O'),
    )
    return project.add(
        isa='XCConfigurationList',
        buildConfigurations=[
            project.add(isa='XCBuildConfiguration', name=name, buildSettings={**settings, **more})
            for name, more in kinds.items()
        ],
        defaultConfigurationIsVisible='0',
        defaultConfigurationName='Release',
    )


def _app_settings(example: str, ios: str) -> dict[str, Any]:
    return dict(
        CODE_SIGN_STYLE='Automatic',
        GENERATE_INFOPLIST_FILE='YES',
        INFOPLIST_KEY_NSCameraUsageDescription=_CAMERA,
        INFOPLIST_KEY_UIApplicationSceneManifest_Generation='YES',
        INFOPLIST_KEY_UILaunchScreen_Generation='YES',
        # An iPad app that knows one orientation only has to fill the screen.
        INFOPLIST_KEY_UIRequiresFullScreen='YES',
        INFOPLIST_KEY_UISupportedInterfaceOrientations='UIInterfaceOrientationPortrait',
        IPHONEOS_DEPLOYMENT_TARGET=str(max(_OLDEST_IOS, float(ios))),
        LD_RUNPATH_SEARCH_PATHS=['$(inherited)', '@executable_path/Frameworks'],
        PRODUCT_BUNDLE_IDENTIFIER=f'com.example.{example}',
        PRODUCT_NAME='$(TARGET_NAME)',
        SDKROOT='iphoneos',
        SWIFT_STRICT_CONCURRENCY='complete',
        SWIFT_VERSION='5.0',
        TARGETED_DEVICE_FAMILY='1,2',
    )
