"""Read a Core ML file, ``.mlpackage`` or ``.mlmodel``, into a Program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional, Union

from ..errors import ProgramError
from . import flexibility, quiet
from .budget import Ledger, memory_of
from .graph import Feature, Operation, Program, Value
from .package_files import one_line, shortened, specification_file
from .promises import check_promises

__all__ = ['Feature', 'Operation', 'Program', 'Value', 'read_program']

_NETWORKS = {
    'neuralNetwork': 'neuralNetwork',
    'neuralNetworkClassifier': 'neuralNetworkClassifier',
}
_ALLOWED = 'mlProgram, neuralNetwork or neuralNetworkClassifier'
_LONGEST = 8000
_CHANNELS = {'RGB': 3, 'BGR': 3, 'GRAYSCALE': 1, 'GRAYSCALE_FLOAT16': 1}
_ARRAY_DTYPES = {
    'FLOAT16': 'fp16',
    'FLOAT32': 'fp32',
    'DOUBLE': 'fp64',
    'INT8': 'int8',
    'INT32': 'int32',
}


def read_program(
    path: Union[str, os.PathLike[str]],
    memory_budget: Optional[float] = None,
) -> Program:
    """Read a Core ML model as saved on disk; runs on any OS.

    Args:
        path (str | PathLike): A ``.mlpackage`` folder (an ``mlprogram`` or a
            ``neuralnetwork`` inside) or a ``.mlmodel`` file.
        memory_budget (float | None): Most bytes that its constants may
            take, as dense values; None for a multiple of the file's.

    Returns:
        Program: Interface, operations with their constants (compressed
        weights as dense values), classes and metadata.

    Raises:
        ProgramError: If the path does not exist or is no Core ML model, if
            the specification or the weights are missing, truncated or
            damaged, if the package holds links that lead outside, if its
            description contradicts the program, or if the model is of a
            kind other than ``mlprogram`` and ``neuralnetwork`` (a pipeline,
            a tree ensemble, ...).
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ProgramError(
            f'the path is an {type(path).__name__} ({path!r}); allowed: str '
            f'or PathLike'
        )
    try:
        source = Path(path).expanduser()
        file = specification_file(source)
        if memory_budget is None:
            memory_budget = memory_of(source)
    except ProgramError:
        raise
    # A NUL, a name that is too long, links in a circle, no permission.
    except (OSError, RuntimeError, ValueError) as error:
        raise ProgramError(
            f'{shortened(repr(os.fspath(path)))} cannot be opened: '
            f'{one_line(error)}'
        ) from error
    try:
        return _read(source, file, Ledger(memory_budget))
    except ProgramError as error:
        # Names in it come out of the file.
        reason = shortened(' '.join(str(error).split()), _LONGEST)
        raise ProgramError(f'{source}: {reason}') from error
    except Exception as error:
        # protobuf and NumPy raise every kind of error on damaged input.
        raise ProgramError(
            f'{source}: cannot decode the model ({one_line(error)})'
        ) from error


def _read(source: Path, file: Path, ledger: Ledger) -> Program:
    spec = _parse(file)
    kind = spec.WhichOneof('Type')
    description = spec.description
    if kind != 'mlProgram' and kind not in _NETWORKS:
        raise ProgramError(
            f'the model is of kind {kind}; supported: {_ALLOWED}'
        )
    operations, interface = _operations(spec, kind, file.parent, ledger)
    program = Program(
        path=source,
        format='mlprogram' if kind == 'mlProgram' else 'neuralnetwork',
        inputs=tuple(_feature(item) for item in description.input),
        outputs=tuple(_feature(item) for item in description.output),
        operations=operations,
        classes=_classes(operations),
        predicted_feature_name=description.predictedFeatureName,
        predicted_probabilities_name=description.predictedProbabilitiesName,
        metadata=_metadata(description.metadata),
        spec_version=spec.specificationVersion,
    )
    check_promises(program, interface)
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
            f'{file.name} is truncated or not a Core ML specification '
            f'({len(content)} bytes)'
        ) from error
    if spec.WhichOneof('Type') is None:
        raise ProgramError(
            f'{file.name} holds no model; supported: {_ALLOWED}'
        )
    return spec


def _operations(
    spec: Any, kind: str, folder: Path, ledger: Ledger
) -> tuple[tuple[Operation, ...], Any]:
    """Operations, and the interface where the program itself has one."""
    from . import mil, neuralnetwork

    if kind == 'mlProgram':
        return mil.read_operations(spec, folder, ledger)
    return neuralnetwork.read_operations(spec, kind, ledger), None


def _classes(operations: tuple[Operation, ...]) -> Optional[tuple[Any, ...]]:
    for op in operations:
        if op.type == 'classify':
            return tuple(op.inputs['classes'])
    return None


def _feature(item: Any) -> Feature:
    """Translate one FeatureDescription."""
    kind = item.type.WhichOneof('Type')
    if kind == 'imageType':
        image = item.type.imageType
        layout = image.ColorSpace.Name(image.colorSpace)
        if layout not in _CHANNELS:
            raise ProgramError(
                f'image {item.name!r} has color space {layout}; supported: '
                f'{", ".join(_CHANNELS)}'
            )
        shape = (1, _CHANNELS[layout], image.height, image.width)
        ways = flexibility.of_image(image, _CHANNELS[layout])
        return Feature(item.name, 'image', shape, 'uint8', layout, *ways)
    if kind == 'multiArrayType':
        array = item.type.multiArrayType
        shape, dtype = tuple(array.shape), _array_dtype(item, array)
        ways = flexibility.of_array(array)
        return Feature(item.name, 'tensor', shape, dtype, None, *ways)
    named = {
        'dictionaryType': 'dictionary',
        'stringType': 'string',
        'int64Type': 'int64',
    }
    if kind not in named:
        raise ProgramError(
            f'feature {item.name!r} is a {kind}; supported: imageType, '
            f'multiArrayType, {", ".join(named)}'
        )
    return Feature(item.name, named[kind])


def _array_dtype(item: Any, array: Any) -> str:
    dtype = array.ArrayDataType.Name(array.dataType)
    if dtype not in _ARRAY_DTYPES:
        raise ProgramError(
            f'array {item.name!r} has data type {dtype}; supported: '
            f'{", ".join(_ARRAY_DTYPES)}'
        )
    return _ARRAY_DTYPES[dtype]


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
