"""A description that contradicts its program is refused, with both said."""

from __future__ import annotations

import numpy as np
import pytest
from crafted_kit import MODEL, Crafted
from test_program_errors import edited, respec

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.errors import ProgramError


def image(spec):
    return spec.description.input[0].type.imageType


def labels(spec, change):
    """Change the class labels of an ``mlprogram``."""
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    op = next(o for o in block.operations if o.type == 'classify')
    value = op.inputs['classes'].arguments[0]
    if value.WhichOneof('binding') == 'name':
        value = next(o for o in block.operations if o.outputs[0].name == value.name).attributes[
            'val'
        ]
    else:
        value = value.value
    change(value.immediateValue.list.values)


def set_label(index, text):
    def change(values):
        values[index].immediateValue.tensor.strings.values[0] = text

    return lambda spec: labels(spec, change)


def drop_labels(spec):
    labels(spec, lambda values: values.__delitem__(slice(2, None)))


def rename_input(spec):
    spec.description.input[0].name = 'picture'


def more_inputs(spec):
    spec.description.input.add().CopyFrom(spec.description.input[0])
    spec.description.input[1].name = 'second'


def same_input(spec):
    spec.description.input.add().CopyFrom(spec.description.input[0])


def wrong_label_output(spec):
    spec.description.predictedFeatureName = 'nowhere'


def swapped_outputs(spec):
    d = spec.description
    d.predictedFeatureName, d.predictedProbabilitiesName = (
        d.predictedProbabilitiesName,
        d.predictedFeatureName,
    )


def number_labels(spec):
    name = spec.description.predictedFeatureName
    next(f for f in spec.description.output if f.name == name).type.int64Type.SetInParent()


def other_sizes(spec):
    sizes = image(spec).enumeratedSizes.sizes
    for height, width in ((24, 16), (30, 30)):
        size = sizes.add()
        size.height, size.width = height, width


def a_range(spec):
    sides = image(spec).imageSizeRange
    sides.heightRange.lowerBound, sides.heightRange.upperBound = 8, 24
    sides.widthRange.lowerBound, sides.widthRange.upperBound = 16, 16


def unknown_output(spec):
    output = spec.description.output.add()
    output.name = 'extra'
    output.type.multiArrayType.dataType = 65568


CONTRADICTIONS = [
    (drop_labels, r'2 class labels for probabilities of shape \(1, 5\)'),
    (set_label(1, 'ant'), "several class labels 'ant'"),
    (
        lambda s: setattr(image(s), 'width', 17),
        r'\(1, 3, 24, 17\) by the description and \(1, 3, 24, 16\)',
    ),
    (
        lambda s: setattr(image(s), 'colorSpace', 10),
        r'\(1, 1, 24, 16\) by the description and \(1, 3, 24, 16\)',
    ),
    (other_sizes, r'\(1, 3, 30, 30\) by the description'),
    (a_range, r'\(1, 3, None, 16\) by the description'),
    (rename_input, r"inputs \['picture'\], the program \['image'\]"),
    (more_inputs, r"inputs \['image', 'second'\], the program"),
    (same_input, "several inputs named 'image'"),
    (wrong_label_output, "promises 'nowhere'.*it is missing"),
    (swapped_outputs, 'it is dictionary'),
    (number_labels, 'labels are of type string, the description says int64'),
    (unknown_output, "output 'extra', the program"),
    (lambda s: setattr(s, 'specificationVersion', 99), 'version is 99; known'),
]


@pytest.mark.parametrize(('change', 'message'), CONTRADICTIONS)
def test_contradiction(tiny_package, tmp_path, change, message):
    path = edited(tiny_package, tmp_path, respec(MODEL, change))
    with pytest.raises(ProgramError, match=message) as caught:
        read_program(path)
    assert '\n' not in str(caught.value)


def test_labels_of_a_neural_network(tiny_model, tmp_path):
    def drop(spec):
        vector = spec.neuralNetworkClassifier.stringClassLabels.vector
        del vector[3:]

    path = edited(tiny_model, tmp_path, respec('', drop))
    with pytest.raises(ProgramError, match='3 class labels for 5 probab'):
        load_program(path)


def test_array_that_is_described_otherwise(tmp_path):
    crafted = Crafted()
    crafted.op('relu', 'y', (1, 4, 6, 5), x='x')
    path = crafted.save(tmp_path, described=(1, 4, 5, 6))
    with pytest.raises(
        ProgramError,
        match=r"output 'y' has the shape \(1, 4, "
        r'5, 6\).*\(1, 4, 6, 5\)',
    ):
        read_program(path)


@pytest.mark.parametrize('dtype', ['INT32', 'FLOAT16'])
def test_array_of_another_type(tmp_path, dtype):
    crafted = Crafted()
    array = crafted.spec.description.input[0].type.multiArrayType
    array.dataType = getattr(array, dtype)
    crafted.op('relu', 'y', (1, 4, 6, 5), x='x')
    with pytest.raises(ProgramError, match=r"'x' is .* by the description"):
        read_program(crafted.save(tmp_path))


@pytest.mark.parametrize('shape', [(1, 4, 6), (1, 4, 6, 6), (5, 4, 6, 1)])
def test_result_that_is_declared_otherwise(tmp_path, shape):
    crafted = Crafted()
    crafted.op('relu', 'y', shape, x='x')
    with pytest.raises(ProgramError, match=r"'relu'.*declares .* computes"):
        load_program(crafted.save(tmp_path))


def test_what_agrees_is_computed(tmp_path):
    crafted = Crafted(x=(1, 4, None, 5))
    crafted.op('relu', 'y', (1, 4, None, 5), x='x')
    loaded = load_program(crafted.save(tmp_path))
    x = np.float32([[[[-1, 2, -3, 4, 5]]] * 4])
    np.testing.assert_array_equal(loaded.predict({'x': x})['y'], np.maximum(x, 0))
