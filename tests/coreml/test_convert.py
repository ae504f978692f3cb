"""Every form of input and output, read back from disk, against torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from format_kit import OTHER, SIZE, convert, error, load, network, oracle, perturbed, pixels

from mmpretrain_mobileone_ext.errors import ExportError

TABLE = list(
    itertools.product(
        ('.mlpackage', '.mlmodel'),
        ('image', 'tensor'),
        ('class', 'features'),
        ((), (OTHER,)),
        ((1,), (1, 3)),
    )
)
REFUSED = [row for row in TABLE if row[1] == 'image' and len(row[4]) > 1]
BOUND = 1e-5


@pytest.fixture(scope='module')
def net():
    return network()


def names(features, batches):
    """A classifier of Core ML says a label for one sample only."""
    if features:
        return ['feature_0', 'feature_1']
    probabilities = ['classLabel_probs']
    return probabilities if len(batches) > 1 else ['classLabel', *probabilities]


@pytest.mark.parametrize(
    ('suffix', 'kind', 'outputs', 'sizes', 'batches'),
    [
        pytest.param(*row, marks=pytest.mark.slow) if number % 3 else row
        for number, row in enumerate(row for row in TABLE if row not in REFUSED)
    ],
)
def test_equals_torch_in_every_form(net, tmp_path, suffix, kind, outputs, sizes, batches):
    loaded = load(
        net,
        tmp_path / f'm{suffix}',
        input=kind,
        outputs=outputs,
        extra_sizes=sizes,
        batch_sizes=batches,
    )
    (image,) = loaded.program.inputs
    assert set(image.shapes) == {(n, 3, *size) for n in batches for size in (SIZE, *sizes)}
    assert list(dict.fromkeys(shape[2:] for shape in image.shapes)) == [SIZE, *sizes]
    features = outputs == 'features'
    assert sorted(f.name for f in loaded.program.outputs) == names(features, batches)
    for size in (SIZE, *sizes):
        batch = pixels(4, size)
        found = loaded.predict_batch({'image': batch.flip(1).float()})
        assert error(found, oracle(net, batch, features)) < BOUND
        wrong = oracle(perturbed(net), batch, features)
        assert error(found, wrong) > 10 * BOUND


@pytest.mark.parametrize(('suffix', 'kind', 'outputs', 'sizes', 'batches'), REFUSED)
def test_an_image_input_takes_one_image(net, tmp_path, suffix, kind, outputs, sizes, batches):
    with pytest.raises(ExportError, match='takes one image at a time'):
        convert(
            net,
            tmp_path / f'm{suffix}',
            input=kind,
            outputs=outputs,
            extra_sizes=sizes,
            batch_sizes=batches,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options', [dict(outputs='class', batch_sizes=(1, 2)), dict(outputs='features')]
)
def test_arrays_are_float32_in_a_half_precision_program(net, tmp_path, options):
    """From iOS 16 on, coremltools would make them fp16."""
    program = load(
        net, tmp_path / 'm.mlpackage', input='tensor', precision='fp16', **options
    ).program
    assert 'fp16' in {d for op in program.operations for d in op.dtypes}
    assert {(f.kind, f.dtype) for f in program.outputs} == {('tensor', 'fp32')}


@pytest.mark.parametrize('suffix', ['.mlpackage', '.mlmodel'])
def test_half_precision_at_every_size(net, tmp_path, suffix):
    loaded = load(net, tmp_path / f'm{suffix}', precision='fp16', extra_sizes=(OTHER,))
    for size in (SIZE, OTHER):
        batch = pixels(3, size)
        found = loaded.predict_batch({'image': batch.flip(1).float()})
        assert BOUND < error(found, oracle(net, batch)) < 2e-3


def test_the_conversion_leaves_random_state_alone(net, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    convert(net, tmp_path / 'm.mlmodel', extra_sizes=(OTHER,))
    assert torch.equal(torch.rand(3), wanted)
