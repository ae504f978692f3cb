"""What a program needs of the system that runs it.

Sources: the first operation set of each operation is the one it is registered for in coremltools;
availability of compute units is that of ``MLComputeUnits``; what each unit computes in is
coremltools' "Typed Execution" guide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import ExportError
from .program import quiet
from .program.graph import Feature, Operation, Program, walk

#: Core ML specification version to the first iOS that reads it.
SYSTEMS = {
    1: 'iOS11',
    2: 'iOS11.2',
    3: 'iOS12',
    4: 'iOS13',
    5: 'iOS14',
    6: 'iOS15',
    7: 'iOS16',
    8: 'iOS17',
    9: 'iOS18',
    10: 'iOS26',
}
#: Those that a program can be converted for.
TARGETS = ('iOS15', 'iOS16', 'iOS17', 'iOS18', 'iOS26')
#: The first that reads compressed (palettized, int8) weights.
DEFAULT_TARGET = 'iOS16'
#: Names of ``MLComputeUnits`` as coremltools spells them.
COMPUTE_UNITS = ('ALL', 'CPU_ONLY', 'CPU_AND_GPU', 'CPU_AND_NE')
_NEURAL_ENGINE = ('ALL', 'CPU_AND_NE')
#: MLComputeUnits.cpuAndNeuralEngine: iOS 16, macOS 13.
_FIRST_CPU_AND_NE = 7
_FIRST_FP16_IO = 7  # fp16 arrays and images as inputs and outputs
# What coremltools puts before a network with an image input, always fp32.
_OF_AN_IMAGE = ('__scaled__', '__biased__')
_NAMES_SHOWN = 3
#: Metadata: what the network was converted from. Either this, or why it is something else.
FRONT_END, EXPORT = 'front_end', 'torch.export'


class Need(NamedTuple):
    """A specification version, and what needs it."""

    version: int
    reason: str


def check_compute_units(compute_units: str, target: str) -> None:
    """Refuse a target that does not have the compute units asked for.

    Raises:
        ExportError: states both.
    """
    if compute_units == 'CPU_AND_NE' and version_of(target) < _FIRST_CPU_AND_NE:
        raise ExportError(
            f'compute_units is CPU_AND_NE, which needs {SYSTEMS[_FIRST_CPU_AND_NE]}, but '
            f'deployment_target is {target}; raise the target or choose ALL'
        )


def check_target(program: Program, target: str) -> None:
    """Refuse a program that needs a newer system than ``target``.

    Args:
        program: as read from disk.
        target: 'iOS15', 'iOS16', ...

    Raises:
        ExportError: names what needs the newer system, than the target or than the file itself
            states.
    """
    stated = f'deployment_target is {target}'
    _check_version(program, version_of(target), stated)
    stated = f'the file states {system_of(program.spec_version)}'
    _check_version(program, program.spec_version, stated)


def _check_version(program: Program, version: int, stated: str) -> None:
    beyond = [need for need in needs(program) if need.version > version]
    if beyond:
        worst = max(need.version for need in beyond)
        reasons = [n.reason for n in beyond if n.version == worst]
        raise ExportError(f'{stated}, but the program needs {system_of(worst)}: {_some(reasons)}')


def target_of(program: Program) -> str:
    """The deployment target of an ``mlprogram``, e.g. 'iOS16'.

    Raises:
        ExportError: it is none, or newer than the newest of ``TARGETS``.
    """
    if program.format != 'mlprogram':
        raise ExportError(
            f'{program.path} is a {program.format}; only the weights of an '
            'mlprogram (.mlpackage) have forms of their own'
        )
    target = system_of(program.spec_version)
    if target not in TARGETS:
        raise ExportError(
            f'{program.path} has specification version {program.spec_version}; known: '
            f'{", ".join(f"{version_of(t)} ({t})" for t in TARGETS)}'
        )
    return target


def system_of(version: int) -> str:
    """First iOS that reads a specification version."""
    return SYSTEMS.get(version, f'specification version {version}')


def version_of(target: str) -> int:
    """Specification version of a target ('iOS15' to 'iOS26').

    Raises:
        ExportError: unknown target.
    """
    versions = {system: version for version, system in SYSTEMS.items()}
    if target not in versions:
        raise ExportError(f'deployment_target is {target!r}; allowed: {", ".join(versions)}')
    return versions[target]


def needs(program: Program) -> Iterator[Need]:
    """Everything that asks for a version: file, interface, operations."""
    yield Need(program.spec_version, f'specification version {program.spec_version}')
    for feature in (*program.inputs, *program.outputs):
        if 'fp16' in (feature.dtype, _image_dtype(feature)):
            yield Need(_FIRST_FP16_IO, f'{feature.name!r} is fp16')
    if program.format != 'mlprogram':
        return  # a layer's version is the file's
    for op in walk(program.operations):
        for kind in (op.type, *op.attributes.get('compressed', {}).values()):
            yield Need(_first_version(kind), f'{kind} (in {op.name!r})')
        yield Need(
            _parameters_version(op),
            f'{op.type} (named {op.name!r}) with {", ".join(sorted(op.inputs))}',
        )


def _image_dtype(feature: Feature) -> str:
    return 'fp16' if feature.color_layout == 'GRAYSCALE_FLOAT16' else ''


def _definitions(kind: str) -> dict[int, Any]:
    """Specification version to the form an operation has from it on."""
    registry = quiet.module('coremltools.converters.mil.mil.ops.registry')
    forms = registry.SSAOpRegistry.core_ops.get(kind, {})
    return {int(version): form for version, form in sorted(forms.items())}


def _first_version(kind: str) -> int:
    # Our names for layers of other formats are in no operation set.
    return min(_definitions(kind), default=1)


def _parameters_version(op: Operation) -> int:
    """First version whose form of the operation has all its parameters."""
    for version, form in _definitions(op.type).items():
        if set(op.inputs) <= set(form.input_spec.input_types):
            return version
    return 1


def notes(program: Program, compute_units: str) -> tuple[str, ...]:
    """What a user should know about compute units, of an ``mlprogram``."""
    from .runtime.ops import OPS  # some thousand lines that only this needs

    typed = [
        op
        for op in program.operations
        if not (op.type in OPS and OPS[op.type].untyped)
        and {'fp16', 'fp32'} & set(op.dtypes)
        and not op.name.endswith(_OF_AN_IMAGE)
    ]
    single = [op.name for op in typed if 'fp32' in op.dtypes]
    if compute_units not in _NEURAL_ENGINE or not single:
        return ()
    if len(single) == len(typed):
        return ('every operation is fp32, which the Neural Engine does not run; fp16 can use it',)
    return (
        f'{len(single)} of {len(typed)} operations are fp32, which '
        f'the Neural Engine does not run: {_some(single)}',
    )


def _some(names: list[str]) -> str:
    more = f' and {len(names) - _NAMES_SHOWN} more' if len(names) > _NAMES_SHOWN else ''
    return ', '.join(names[:_NAMES_SHOWN]) + more
