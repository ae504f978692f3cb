"""What programs need, and requests that contradict themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compress_kit import save_small
from format_kit import convert, network
from runtime_kit import X, save_mil

from mmpretrain_mobileone_ext.coreml import read_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.targets import (
    TARGETS,
    check_compute_units,
    check_target,
    needs,
    notes,
    system_of,
    target_of,
    version_of,
)
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.options import ExportOptions


def oldest(program):
    return system_of(max(need.version for need in needs(program)))


def test_versions_are_those_of_coremltools():
    targets = quiet.coremltools().target
    for target in TARGETS:
        assert version_of(target) == targets[target]
        assert system_of(version_of(target)) == target
    assert system_of(99) == 'specification version 99'
    with pytest.raises(ExportError, match=r"'iOS7'; allowed: .*iOS15"):
        version_of('iOS7')


@pytest.mark.parametrize('target', TARGETS)
def test_a_program_for_each_target(tmp_path, target):
    program = read_program(save_mil(lambda mb, x: mb.relu(x=x), {'x': X}, tmp_path, target))
    assert oldest(program) == target
    for other in TARGETS:
        if version_of(other) >= version_of(target):
            check_target(program, other)
            continue
        with pytest.raises(
            ExportError,
            match=f'deployment_target is {other}, but the program needs {target}: specification',
        ):
            check_target(program, other)


OPERATIONS = {
    'fill_like': ('iOS16', lambda mb, x: mb.fill_like(ref_tensor=x, value=np.float32(2))),
    'resize': (
        'iOS17',
        lambda mb, x: mb.resize(
            x=x,
            shape=[8, 9],
            resized_dims=np.uint32(2),
            interpolation_mode='LINEAR',
            sampling_mode='DEFAULT',
        ),
    ),
    # An iOS 13 operation with a parameter, the indices' dtype, of iOS 17.
    'topk': ('iOS17', lambda mb, x: mb.topk(x=x, k=2, sort=True)),
    'add': ('iOS13', lambda mb, x: mb.add(x=x, y=x)),
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_operations_by_their_first_operation_set(tmp_path, name):
    """Written for iOS 18, as if the file stated iOS 15."""
    first, build = OPERATIONS[name]
    whole = read_program(save_mil(build, {'x': X}, tmp_path, 'iOS18'))
    assert name in whole.count_operations()
    program = replace(whole, spec_version=version_of('iOS15'))
    wanted = max(version_of(first), version_of('iOS15'))
    assert oldest(program) == system_of(wanted)
    if first == 'iOS13':
        check_target(program, 'iOS15')
        return
    with pytest.raises(ExportError, match=f'target is iOS15, .* {first}: {name} .'):
        check_target(program, 'iOS15')
    with pytest.raises(ExportError, match=f'the file states iOS15, .* needs {first}: {name} .'):
        check_target(program, 'iOS18')


def test_compressed_weights_need_ios_16(tmp_path):
    path = convert(network(), tmp_path / 'm.mlpackage', deployment_target='iOS16', precision='fp16')
    with quiet.conversion() as ct:
        optimize = quiet.module('coremltools.optimize.coreml')
        small = optimize.palettize_weights(
            ct.models.MLModel(str(path), skip_model_load=True),
            optimize.OptimizationConfig(optimize.OpPalettizerConfig(nbits=4, weight_threshold=0)),
        )
        small.save(str(tmp_path / 'small.mlpackage'))
    program = replace(read_program(tmp_path / 'small.mlpackage'), spec_version=version_of('iOS15'))
    with pytest.raises(
        ExportError,
        match=r'needs iOS16: constexpr_lut_to_'
        r'dense .*and [0-9]+ more',
    ):
        check_target(program, 'iOS15')
    check_target(replace(program, spec_version=version_of('iOS16')), 'iOS16')


def test_half_precision_interfaces_need_ios_16(tiny_package):
    whole = read_program(tiny_package)
    program = replace(whole, spec_version=version_of('iOS15'))
    check_target(program, 'iOS15')
    (image,) = program.inputs
    for other in (
        replace(image, kind='tensor', dtype='fp16'),
        replace(image, color_layout='GRAYSCALE_FLOAT16'),
    ):
        with pytest.raises(ExportError, match="needs iOS16: 'image' is fp16"):
            check_target(replace(program, inputs=(other,)), 'iOS15')


def test_a_neural_network_needs_what_its_file_states(tiny_model):
    program = read_program(tiny_model)
    assert {need.reason for need in needs(program)} == {
        f'specification version {program.spec_version}'
    }
    assert oldest(program) == 'iOS13'
    for target in TARGETS:
        check_target(program, target)


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_contradictions(tmp_path, suffix):
    for target in TARGETS[1:]:
        check_compute_units('CPU_AND_NE', target)
    check_compute_units('ALL', 'iOS15')
    with pytest.raises(
        ExportError, match='CPU_AND_NE, which needs iOS16, but deployment_target is iOS15'
    ):
        ExportOptions(
            out=tmp_path / f'm{suffix}', compute_units='CPU_AND_NE', deployment_target='iOS15'
        )


@pytest.mark.parametrize(
    ('units', 'precision', 'found'),
    [
        ('ALL', 'fp16', ''),
        ('CPU_AND_NE', 'fp16', ''),
        ('ALL', 'fp32', 'every operation is fp32'),
        ('CPU_AND_NE', 'fp32', 'every operation is fp32'),
        ('CPU_AND_GPU', 'fp32', ''),
        ('CPU_ONLY', 'fp32', ''),
    ],
)
def test_notes_on_programs(tmp_path, units, precision, found):
    options = dict(compute_units=units, precision=precision)
    path = convert(network(), tmp_path / 'm.mlpackage', **options)
    said = notes(read_program(path), units)
    assert len(said) == bool(found)
    assert ' '.join(said).startswith(found)


def test_notes_name_the_operations_that_stay_fp32(tiny_package, tmp_path):
    whole = read_program(tiny_package)
    convolution = next(op for op in whole.operations if op.type == 'conv')
    halved = replace(
        whole,
        operations=tuple(
            op
            if op is convolution or op.type in ('cast', 'classify')
            else replace(op, dtypes=('fp16',))
            for op in whole.operations
        ),
    )
    (note,) = notes(halved, 'ALL')
    assert '1 of ' in note
    assert note.endswith(f'does not run: {convolution.name}')


def test_targets_of_programs(tmp_path, tiny_model):
    program = read_program(save_small(tmp_path, 'iOS18'))
    assert target_of(program) == 'iOS18'
    for target in TARGETS:
        assert target_of(replace(program, spec_version=version_of(target))) == target
    with pytest.raises(ExportError, match='version 12; known: 6'):
        target_of(replace(program, spec_version=12))
    with pytest.raises(ExportError, match='is a neuralnetwork'):
        target_of(read_program(tiny_model))
