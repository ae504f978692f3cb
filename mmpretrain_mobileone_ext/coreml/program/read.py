"""Read a saved ``.mlpackage`` or ``.mlmodel`` without trusting it.

An app, and the Swift package, take sizes, channels and labels from the description; the program
computes by its own types. Where they differ, one of both is wrong, and predictions are made with
what the user did not mean.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from ...errors import ProgramError
from ...utils.text import one_line
from . import mil, neuralnetwork, quiet
from .budget import Ledger, memory_of
from .graph import Feature, Operation, Program, Shape, Value, sources
from .mil import Interface
from .package_files import shortened, specification_file

__all__ = ['Feature', 'Operation', 'Program', 'Value', 'read_program']

_KINDS = ('mlProgram', 'neuralNetwork', 'neuralNetworkClassifier')
_NEWEST = 10  # specification version of iOS 26, the last one known
_LONGEST = 8000
_CHANNELS = {'RGB': 3, 'BGR': 3, 'GRAYSCALE': 1, 'GRAYSCALE_FLOAT16': 1}
_ARRAY_DTYPES = {
    'FLOAT16': 'fp16',
    'FLOAT32': 'fp32',
    'DOUBLE': 'fp64',
    'INT8': 'int8',
    'INT32': 'int32',
}
_FLOATS = ('fp16', 'fp32', 'fp64')
_LABELS = {str: 'string', int: 'int64'}


def read_program(
    path: Union[str, os.PathLike[str]], memory_budget: Optional[float] = None
) -> Program:
    """Read a Core ML model as saved on disk; runs on any OS.

    Args:
        path (str | PathLike): A ``.mlpackage`` folder (an ``mlprogram`` or a ``neuralnetwork``
            inside) or a ``.mlmodel`` file.
        memory_budget (float | None): Most bytes that its constants may take, as dense values; None
            for a multiple of the file's.

    Returns:
        Program: Interface, operations with their constants (compressed
        weights as dense values), classes and metadata.

    Raises:
        ProgramError: If the path does not exist or is no Core ML model, if the specification or the
            weights are missing, truncated or damaged, if the package holds links that lead outside,
            if its description contradicts the program, or if the model is of a kind other than
            ``mlprogram`` and ``neuralnetwork`` (a pipeline, a tree ensemble, ...).
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ProgramError(
            f'the path is an {type(path).__name__} ({path!r}); allowed: str or PathLike'
        )
    try:
        source = Path(path).expanduser()
        file = specification_file(source)
        budget = memory_of(source) if memory_budget is None else memory_budget
    except ProgramError:
        raise
    # A NUL, a name that is too long, links in a circle, no permission.
    except (OSError, RuntimeError, ValueError) as error:
        raise ProgramError(
            f'{shortened(repr(os.fspath(path)))} cannot be opened: {one_line(error)}'
        ) from error
    try:
        return _read(source, file, Ledger(budget))
    except ProgramError as error:
        # Names in it come out of the file.
        reason = shortened(' '.join(str(error).split()), _LONGEST)
        raise ProgramError(f'{source}: {reason}') from error
    except Exception as error:
        # protobuf and NumPy raise every kind of error on damaged input.
        raise ProgramError(f'{source}: cannot decode the model ({one_line(error)})') from error


def _read(source: Path, file: Path, ledger: Ledger) -> Program:
    spec = _parse(file)
    kind, description = spec.WhichOneof('Type'), spec.description
    interface: Optional[Interface] = None
    if kind == 'mlProgram':
        operations, interface = mil.read_operations(spec, file.parent, ledger)
    else:
        operations = neuralnetwork.read_operations(spec, kind, ledger)
    classifiers = [op for op in operations if op.type == 'classify']
    program = Program(
        path=source,
        format='mlprogram' if kind == 'mlProgram' else 'neuralnetwork',
        inputs=tuple(_feature(item) for item in description.input),
        outputs=tuple(_feature(item) for item in description.output),
        operations=operations,
        classes=tuple(classifiers[0].inputs['classes']) if classifiers else None,
        predicted_feature_name=description.predictedFeatureName,
        predicted_probabilities_name=description.predictedProbabilitiesName,
        metadata=_metadata(description.metadata),
        spec_version=spec.specificationVersion,
    )
    _check_promises(program, classifiers, interface)
    return program


def _parse(file: Path) -> Any:
    """Parse the protobuf specification."""
    coremltools = quiet.coremltools()
    content = file.read_bytes()
    spec = coremltools.proto.Model_pb2.Model()
    try:
        spec.ParseFromString(content)
    except Exception as error:
        # protobuf's DecodeError lives elsewhere in its C++ and Python forms.
        raise ProgramError(
            f'{file.name} is truncated or not a Core ML specification ({len(content)} bytes)'
        ) from error
    kind, allowed = spec.WhichOneof('Type'), ', '.join(_KINDS[:-1]) + f' or {_KINDS[-1]}'
    if kind is None:
        raise ProgramError(f'{file.name} holds no model; supported: {allowed}')
    if kind not in _KINDS:
        raise ProgramError(f'the model is of kind {kind}; supported: {allowed}')
    return spec


def _feature(item: Any) -> Feature:
    """Translate one FeatureDescription."""
    kind = item.type.WhichOneof('Type')
    if kind == 'imageType':
        image = item.type.imageType
        layout = image.ColorSpace.Name(image.colorSpace)
        if layout not in _CHANNELS:
            raise ProgramError(
                f'image {item.name!r} has color space {layout}; supported: {", ".join(_CHANNELS)}'
            )
        shape = (1, _CHANNELS[layout], image.height, image.width)
        sizes = _image_shapes(image, shape)
        return Feature(item.name, 'image', shape, 'uint8', layout, **sizes)
    if kind == 'multiArrayType':
        array = item.type.multiArrayType
        dtype = array.ArrayDataType.Name(array.dataType)
        if dtype not in _ARRAY_DTYPES:
            raise ProgramError(
                f'array {item.name!r} has data type {dtype}; supported: {", ".join(_ARRAY_DTYPES)}'
            )
        shape, sizes = tuple(array.shape), _array_shapes(array)
        return Feature(item.name, 'tensor', shape, _ARRAY_DTYPES[dtype], **sizes)
    named = {'dictionaryType': 'dictionary', 'stringType': 'string', 'int64Type': 'int64'}
    if kind not in named:
        raise ProgramError(
            f'feature {item.name!r} is a {kind}; supported: imageType, '
            f'multiArrayType, {", ".join(named)}'
        )
    return Feature(item.name, named[kind])


def _image_shapes(image: Any, default: tuple[int, ...]) -> dict[str, Any]:
    """The shapes of a flexible image, or ranges of its dimensions."""
    kind = image.WhichOneof('SizeFlexibility')
    if kind == 'enumeratedSizes':
        sizes = image.enumeratedSizes.sizes
        return {
            'shapes': _each_once([default, *((*default[:2], s.height, s.width) for s in sizes)])
        }
    if kind == 'imageSizeRange':
        sides = image.imageSizeRange
        fixed = [(n, n) for n in default[:2]]
        return {'ranges': (*fixed, _range(sides.heightRange), _range(sides.widthRange))}
    return {}


def _array_shapes(array: Any) -> dict[str, Any]:
    """The shapes of a flexible array, or ranges of its dimensions."""
    kind = array.WhichOneof('ShapeFlexibility')
    if kind == 'enumeratedShapes':
        default = [tuple(array.shape)] if array.shape else []
        shapes = (tuple(s.shape) for s in array.enumeratedShapes.shapes)
        return {'shapes': _each_once([*default, *shapes])}
    if kind == 'shapeRange':
        return {'ranges': tuple(_range(r) for r in array.shapeRange.sizeRanges)}
    return {}


def _each_once(shapes: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Shapes in the order of the file, the default first."""
    return tuple(dict.fromkeys(shapes))


def _range(sizes: Any) -> tuple[int, int]:
    return int(sizes.lowerBound), int(sizes.upperBound)


def _metadata(item: Any) -> dict[str, str]:
    """Collect user-defined entries and the standard ones that are set."""
    standard = {
        'author': item.author,
        'license': item.license,
        'version': item.versionString,
        'description': item.shortDescription,
    }
    found = {key: value for key, value in standard.items() if value}
    return {**dict(item.userDefined), **found}


def _check_promises(
    program: Program, classifiers: Sequence[Operation], interface: Optional[Interface]
) -> None:
    """Refuse a description that contradicts the program.

    Args:
        classifiers: operations that make the labels.
        interface: of an ``mlprogram``; a ``neuralnetwork`` states no types.

    Raises:
        ProgramError: says what each of both says.
    """
    if not 1 <= program.spec_version <= _NEWEST:
        raise ProgramError(
            f'the specification version is {program.spec_version}; known: 1 to {_NEWEST} (iOS 26)'
        )
    for what, features in (('inputs', program.inputs), ('outputs', program.outputs)):
        _check_once(f'{what} named', [f.name for f in features])
    _check_classifier(program, classifiers)
    if interface is not None:
        _check_inputs(program.inputs, interface)
        _check_outputs(program, interface)


def _check_once(what: str, items: Sequence[Any]) -> None:
    twice = [item for item, n in Counter(items).items() if n > 1]
    if twice:
        raise ProgramError(
            f'there are several {what} {shortened(repr(twice[0]))}; each may occur once'
        )


def _check_classifier(program: Program, classifiers: Sequence[Operation]) -> None:
    kinds = {f.name: f.kind for f in program.outputs}
    label = program.predicted_feature_name
    named = {label: 'string or int64', program.predicted_probabilities_name: 'dictionary'}
    for name, allowed in named.items():
        if name and kinds.get(name, 'missing') not in allowed.split(' or '):
            raise ProgramError(
                f'the description promises {name!r}, an output that is a '
                f'{allowed}; it is {kinds.get(name, "missing")}'
            )
    if program.classes is None:
        if any(named):
            raise ProgramError(
                'the description promises a predicted label or '
                'probabilities, but the program does not classify'
            )
        return
    _check_once('class labels', program.classes)
    found = {_LABELS.get(type(c), type(c).__name__) for c in program.classes}
    if len(found) != 1 or (label and kinds[label] not in found):
        raise ProgramError(
            f'the labels are of type {" and ".join(sorted(found)) or "none"}, '
            f'the description says {kinds.get(label, "no label")}'
        )
    shapes = {name: s for op in program.operations for name, s in zip(op.outputs, op.shapes)}
    for op in classifiers:
        _check_count(len(program.classes), shapes.get(next(sources(op), '')))


def _check_count(labels: int, shape: Optional[Shape]) -> None:
    """One label for each probability, where the program states a shape."""
    if shape is not None and None not in shape and math.prod(n or 0 for n in shape) != labels:
        raise ProgramError(f'there are {labels} class labels for probabilities of shape {shape}')


def _check_inputs(features: Sequence[Feature], interface: Interface) -> None:
    names = sorted(f.name for f in features)
    if names != sorted(interface.inputs):
        raise ProgramError(
            f'the description has the inputs {names}, the program {sorted(interface.inputs)}'
        )
    for feature in features:
        kind, declared = interface.inputs[feature.name]
        if not _fits(feature.dtype, kind.name):
            raise ProgramError(
                f'input {feature.name!r} is {feature.dtype} by the '
                f'description and {kind.name} by the program'
            )
        for shape in _described(feature):
            _check_shape(f'input {feature.name!r}', shape, declared)


def _fits(described: str, declared: str) -> bool:
    """Whether values of an input arrive as what the program computes in."""
    pixels = described in ('uint8', 'fp64')  # become floats on the way
    return declared in _FLOATS if pixels else described == declared


def _described(feature: Feature) -> Iterator[Shape]:
    """Every shape that the description allows; None for a range."""
    if feature.ranges:
        yield tuple(low if low == high else None for low, high in feature.ranges)
    yield from feature.shapes


def _check_outputs(program: Program, interface: Interface) -> None:
    for feature in program.outputs:
        if feature.name not in interface.outputs:
            raise ProgramError(
                f'the description has the output {feature.name!r}, the '
                f'program {sorted(interface.outputs)}'
            )
        declared = interface.outputs[feature.name]
        for shape in feature.shapes if declared is not None else ():
            _check_shape(f'output {feature.name!r}', shape, declared)


def _check_shape(what: str, described: Shape, declared: Optional[Shape]) -> None:
    """Sizes that both know must agree."""
    known = declared or ()
    if len(described) != len(known) or any(
        b is not None and a != b for a, b in zip(described, known)
    ):
        raise ProgramError(
            f'{what} has the shape {described} by the description and {known} by the program'
        )
