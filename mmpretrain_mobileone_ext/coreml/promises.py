"""What a Core ML file says of itself, compared with its program.

An app, and the Swift package, take sizes, channels and labels from the
description; the program computes by its own types. Where they differ, one of
both is wrong, and predictions are made with what the user did not mean.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from ..errors import ProgramError
from .graph import Feature, Operation, Program
from .mil import Interface, Shape
from .package_files import shortened

_NEWEST = 10  # specification version of iOS 26, the last one known
_FLOATS = ('fp16', 'fp32', 'fp64')
_LABELS = {str: 'string', int: 'int64'}


def check_promises(program: Program, interface: Optional[Interface]) -> None:
    """Refuse a description that contradicts the program.

    Args:
        interface: of an ``mlprogram``; a ``neuralnetwork`` states no types.

    Raises:
        ProgramError: says what each of both says.
    """
    if not 1 <= program.spec_version <= _NEWEST:
        raise ProgramError(
            f'the specification version is {program.spec_version}; known: 1 '
            f'to {_NEWEST} (iOS 26)')
    for what, features in (('inputs', program.inputs),
                           ('outputs', program.outputs)):
        _check_once(f'{what} named', [f.name for f in features])
    _check_classifier(program)
    if interface is not None:
        _check_inputs(program.inputs, interface)
        _check_outputs(program, interface)


def _check_once(what: str, items: Sequence[Any]) -> None:
    twice = [item for item, n in Counter(items).items() if n > 1]
    if twice:
        raise ProgramError(f'there are several {what} '
                           f'{shortened(repr(twice[0]))}; each may occur once')


def _check_classifier(program: Program) -> None:
    kinds = {f.name: f.kind for f in program.outputs}
    label = program.predicted_feature_name
    named = {label: 'string or int64',
             program.predicted_probabilities_name: 'dictionary'}
    for name, allowed in named.items():
        if name and kinds.get(name, 'missing') not in allowed.split(' or '):
            raise ProgramError(
                f'the description promises {name!r}, an output that is a '
                f'{allowed}; it is {kinds.get(name, "missing")}')
    if program.classes is None:
        if any(named):
            raise ProgramError(
                'the description promises a predicted label or '
                'probabilities, but the program does not classify')
        return
    _check_once('class labels', program.classes)
    found = {_LABELS.get(type(c), type(c).__name__) for c in program.classes}
    if len(found) != 1 or (label and kinds[label] not in found):
        raise ProgramError(
            f'the labels are of type {" and ".join(sorted(found)) or "none"}, '
            f'the description says {kinds.get(label, "no label")}')
    _check_count(program.operations, len(program.classes))


def _check_count(operations: Sequence[Operation], labels: int) -> None:
    """One label for each probability, where the program states a shape."""
    shapes = {name: shape for op in operations
              for name, shape in zip(op.outputs, op.shapes)}
    for op in operations:
        if op.type != 'classify':
            continue
        source = getattr(op.inputs.get('probabilities'), 'name', None)
        shape = shapes.get(source or '')
        if shape is not None and None not in shape and \
                math.prod(n or 0 for n in shape) != labels:
            raise ProgramError(f'there are {labels} class labels for '
                               f'probabilities of shape {shape}')


def _check_inputs(features: Sequence[Feature], interface: Interface) -> None:
    names = sorted(f.name for f in features)
    if names != sorted(interface.inputs):
        raise ProgramError(f'the description has the inputs {names}, the '
                           f'program {sorted(interface.inputs)}')
    for feature in features:
        kind, declared = interface.inputs[feature.name]
        if not _fits(feature.dtype, kind.name):
            raise ProgramError(
                f'input {feature.name!r} is {feature.dtype} by the '
                f'description and {kind.name} by the program')
        for shape in _described(feature):
            _check_shape(f'input {feature.name!r}', shape, declared)


def _fits(described: str, declared: str) -> bool:
    """Whether values of an input arrive as what the program computes in."""
    pixels = described in ('uint8', 'fp64')  # become floats on the way
    return declared in _FLOATS if pixels else described == declared


def _described(feature: Feature) -> Iterator[Shape]:
    """Every shape that the description allows; None for a range."""
    if feature.ranges:
        yield tuple(low if low == high else None
                    for low, high in feature.ranges)
    yield from feature.shapes


def _check_outputs(program: Program, interface: Interface) -> None:
    for feature in program.outputs:
        if feature.name not in interface.outputs:
            raise ProgramError(
                f'the description has the output {feature.name!r}, the '
                f'program {sorted(interface.outputs)}')
        declared = interface.outputs[feature.name]
        for shape in feature.shapes if declared is not None else ():
            _check_shape(f'output {feature.name!r}', shape, declared)


def _check_shape(what: str, described: Shape,
                 declared: Optional[Shape]) -> None:
    """Sizes that both know must agree."""
    known = declared or ()
    if len(described) != len(known) or any(
            b is not None and a != b for a, b in zip(described, known)):
        raise ProgramError(f'{what} has the shape {described} by the '
                           f'description and {known} by the program')
