"""Exported models of every kind, and the Swift packages made of them."""

import pytest
from coreai_kit import needs_core_ai
from swift_models import CORE_AI_NAMES, KINDS, export

from mmpretrain_mobileone_ext.coreml.swift import write_swift_package


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """An .mlpackage in fp16 and one in fp32, and a gray .mlmodel."""
    precisions = dict(rgb='fp16', bgr='fp32', gray='fp16')
    return {
        kind: export(kind, tmp_path_factory.mktemp(kind), precision=precisions[kind])
        for kind in KINDS
    }


@pytest.fixture(scope='session')
def packages(models, tmp_path_factory):
    """A Swift package of each model, never changed by a test."""
    folder = tmp_path_factory.mktemp('packages')
    return {kind: write_swift_package(models[kind], folder / f'my {kind}') for kind in KINDS}


@pytest.fixture(scope='session')
def core_ai(tmp_path_factory):
    """An ``.aimodel`` of every kind and its package; one in fp32."""
    if needs_core_ai.args[0]:
        pytest.skip(needs_core_ai.kwargs['reason'])
    folder, found = tmp_path_factory.mktemp('core ai'), {}
    for kind, name in CORE_AI_NAMES.items():
        precision = 'fp32' if kind == 'bgr' else 'fp16'
        inside = folder / kind
        inside.mkdir()
        model = export(kind, inside, name, precision=precision)
        found[kind] = (model, write_swift_package(model, folder / f'ai {kind}'))
    return found
