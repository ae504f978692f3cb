"""Core ML packages written field by field, as no converter writes them.

coremltools' builder computes what it builds; nothing here does.
"""

from __future__ import annotations

import json

import numpy as np

from mmpretrain_mobileone_ext.coreml.program import quiet

MODEL = 'Data/com.apple.CoreML/model.mlmodel'
WEIGHTS = 'Data/com.apple.CoreML/weights/weight.bin'
OPSET = 'CoreML7'
X = (1, 4, 6, 5)
_FIELDS = {'FLOAT32': 'floats', 'INT32': 'ints', 'BOOL': 'bools', 'STRING': 'strings'}


def proto():
    return quiet.coremltools().proto


def set_type(target, shape, dtype='FLOAT32'):
    """Make a ``ValueType`` a tensor; a size of None is unknown."""
    tensor = target.tensorType
    tensor.dataType = getattr(proto().MIL_pb2, dtype)
    tensor.rank = len(shape)
    for size in shape:
        dimension = tensor.dimensions.add()
        if size is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size


def set_value(target, value, dtype=None):
    """Make a ``Value`` an immediate tensor."""
    array = np.asarray(value)
    dtype = (
        dtype
        or {'f': 'FLOAT32', 'i': 'INT32', 'b': 'BOOL', 'U': 'STRING', 'S': 'BYTES'}[
            array.dtype.kind
        ]
    )
    set_type(target.type, array.shape, dtype)
    tensor = target.immediateValue.tensor
    field = _FIELDS.get(dtype, 'bytes')
    if field == 'bytes':
        tensor.bytes.values = array.tobytes()
    else:
        getattr(tensor, field).values.extend(array.reshape(-1).tolist())


def set_blob(target, offset, shape, dtype='FLOAT32', name='weight.bin'):
    """Make a ``Value`` a reference to a weights file."""
    set_type(target.type, shape, dtype)
    target.blobFileValue.fileName = f'@model_path/weights/{name}'
    target.blobFileValue.offset = offset


def blob(array, kind):
    """Content of a weights file that holds one array."""
    head = np.zeros(64, np.uint8)
    head[0], head[4] = 1, 2
    record = np.zeros(64, np.uint8)
    record[:4] = np.frombuffer(b'\xef\xbe\xad\xde', np.uint8)
    record[4] = kind
    record[8:24] = np.array([array.nbytes, 128], np.uint64).view(np.uint8)
    return head.tobytes() + record.tobytes() + array.tobytes()


class Crafted:
    """A specification in the making: one input 'x', operations, outputs."""

    def __init__(self, x=X, version=8):
        self.spec = proto().Model_pb2.Model()
        self.spec.specificationVersion = version
        self.spec.mlProgram.version = 1
        self.main = self.spec.mlProgram.functions['main']
        self.main.opset = OPSET
        self.block = self.main.block_specializations[OPSET]
        self.inputs = {}
        self.add_input('x', x)

    def add_input(self, name, shape, dtype='FLOAT32'):
        item = self.main.inputs.add()
        item.name = name
        set_type(item.type, shape, dtype)
        feature = self.spec.description.input.add()
        feature.name = name
        array = feature.type.multiArrayType
        array.shape.extend(1 if n is None else n for n in shape)
        array.dataType = getattr(array, dtype)

    def op(self, kind, name, shape, dtype='FLOAT32', /, **inputs):
        """Add an operation: str inputs refer to values, others are data."""
        op = self.block.operations.add()
        op.type = kind
        set_value(op.attributes['name'], name)
        for parameter, given in inputs.items():
            for item in given if isinstance(given, list) else [given]:
                binding = op.inputs[parameter].arguments.add()
                if isinstance(item, str):
                    binding.name = item
                else:
                    set_value(binding.value, item)
        output = op.outputs.add()
        output.name = name
        set_type(output.type, shape, dtype)
        return name

    def const(self, name, value, dtype=None):
        op = self.block.operations.add()
        op.type = 'const'
        set_value(op.attributes['name'], name)
        set_value(op.attributes['val'], value, dtype)
        output = op.outputs.add()
        output.name = name
        output.type.CopyFrom(op.attributes['val'].type)
        return name

    def constexpr(self, kind, name, shape, dtype='FLOAT16', /, **attributes):
        """A compressed weight with its data as attributes (iOS 16)."""
        op = self.block.operations.add()
        op.type = kind
        set_value(op.attributes['name'], name)
        for parameter, value in attributes.items():
            data, as_type = value if isinstance(value, tuple) else (value, None)
            set_value(op.attributes[parameter], data, as_type)
        output = op.outputs.add()
        output.name = name
        set_type(output.type, shape, dtype)
        return name

    def save(self, folder, *outputs, weights=None, described=None):
        """Write the package; the last operation's results are outputs."""
        last = self.block.operations[-1].outputs
        for name in outputs or [output.name for output in last]:
            self.block.outputs.append(name)
            feature = self.spec.description.output.add()
            feature.name = name
            array = feature.type.multiArrayType
            array.dataType = array.FLOAT32
            if described:
                array.shape.extend(described)
        return write(self.spec, folder, weights)


def write(spec, folder, weights=None):
    """A package with this specification."""
    path = folder / 'crafted.mlpackage'
    (path / WEIGHTS).parent.mkdir(parents=True)
    content = spec if isinstance(spec, bytes) else spec.SerializeToString()
    (path / MODEL).write_bytes(content)
    if weights is not None:
        (path / WEIGHTS).write_bytes(weights)
    root, item = 'A0', {'path': 'com.apple.CoreML/model.mlmodel'}
    (path / 'Manifest.json').write_text(
        json.dumps(
            {
                'fileFormatVersion': '1.0.0',
                'rootModelIdentifier': root,
                'itemInfoEntries': {root: item},
            }
        )
    )
    return path


def int8_linear():
    """A linear layer in fp16 (1, 32) to (1, 16), whose weights are affine integers of 8 bits."""
    made = Crafted((1, 32))
    half = made.op('cast', 'half', (1, 32), 'FLOAT16', x='x', dtype=np.array('fp16'))
    weight = made.constexpr(
        'constexpr_affine_dequantize',
        'w',
        (16, 32),
        quantized_data=(np.ones((16, 32), np.int8), 'INT8'),
        zero_point=(np.int8(0), 'INT8'),
        scale=(np.float16(0.5), 'FLOAT16'),
        axis=(np.int32(0), 'INT32'),
    )
    y = made.op('linear', 'y', (1, 16), 'FLOAT16', x=half, weight=weight)
    made.op('cast', 'result', (1, 16), x=y, dtype=np.array('fp32'))
    return made
