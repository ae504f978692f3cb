"""Integers that were trained, in an ``.aimodel``; Apple's interpreter executes it."""

from dataclasses import replace

import numpy as np
import pytest
from coreai_kit import needs_core_ai, storage_types, stored_values
from helpers import assert_close
from trained_kit import ALL_KINDS, FORMS, SIZE, logits, pixels, quantized, trained_integers

from mmpretrain_mobileone_ext.coreai.compress import compress_file
from mmpretrain_mobileone_ext.coreai.trained import store_trained
from mmpretrain_mobileone_ext.coreml.convert import INPUT, PROBABILITIES
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export

pytestmark = needs_core_ai
IMAGES = 8


def export(model, out, **options):
    options = ExportOptions(out=out, image_size=SIZE, verify_data=IMAGES, **options)
    return run_export(model, None, options)


@pytest.mark.parametrize(
    'form', [f if f == 'w4a8' else pytest.param(f, marks=pytest.mark.slow) for f in FORMS]
)
def test_the_file_computes_what_was_trained(tmp_path, form):
    model, images = quantized(form, ALL_KINDS), pixels(IMAGES)
    result = export(model, tmp_path / 'a.aimodel', precision='fp32')
    assert result.compression.scheme == 'trained'
    rounds = result.verification.operations.get('quantize', 0)
    assert rounds == (len(trained_integers(model)) if FORMS[form][1] else 0)
    found = format_of(result.path).load(result.path).predict_batch({INPUT: images})
    assert_close([logits(model, images).softmax(1)], [found[PROBABILITIES]], 1e-4)


@pytest.mark.parametrize('form', ['w8', 'w4', pytest.param('w4a8', marks=pytest.mark.slow)])
def test_the_integers_in_the_file_are_the_trained_ones(tmp_path, form):
    model = quantized(form, ALL_KINDS)
    out = export(model, tmp_path / 'a.aimodel').path
    held = stored_values(out)
    del held[3:5]  # of SE
    wanted = trained_integers(model)
    for (codes, scale), values in zip(wanted, held, strict=True):
        by = scale.astype(np.float16).astype(np.float64)
        by = by.repeat(codes.shape[1] // by.shape[1], 1)
        by = by.reshape(*by.shape, *[1] * (codes.ndim - 2))
        assert np.array_equal(values.reshape(codes.shape), codes * by)
    # A code for each weight, and a zero point for each block at most: equal constants are one.
    weights, blocks = (sum(part.size for part in parts) for parts in zip(*wanted))
    assert weights < storage_types(out)[f'Int{FORMS[form][0]}'] <= weights + blocks


def test_what_cannot_be_is_refused(tmp_path):
    model = quantized()
    result = export(model, tmp_path / 'a.aimodel', compress='none')
    first, *others = result.job.prepared.trained
    changed = replace(first, weight=2 * first.weight)
    with pytest.raises(ExportError, match=f'no weight in it has the values of {first.name}'):
        store_trained(result.path, [changed, *others], tmp_path / 'b.aimodel')
    with pytest.raises(ExportError, match='are in the network, not in a file'):
        compress_file(result.path, 'trained', tmp_path / 'c.aimodel')
    with pytest.raises(ExportError, match='which another rounding would spoil'):
        export(model, tmp_path / 'd.aimodel', compress='int8')
