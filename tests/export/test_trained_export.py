"""Files hold the integers that a network was trained with, and compute what it computes."""

import numpy as np
import pytest
import torch
from export_kit import CLASSES, TINY, build, model_cfg, photos, save, write_config
from helpers import assert_close
from trained_kit import (
    ALL_KINDS,
    FORMS,
    SIZE,
    TARGETS,
    layer_outputs,
    layer_outputs_of,
    logits,
    pixels,
    quantized,
    stored_integers,
    trained_integers,
)

from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.coreml.runtime.load import load_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.models import quantization as q

BOUNDS = dict(fp16=1e-2, fp32=1e-4)


def export(model, out, form='w8', checkpoint=None, **options):
    """With the form's own deployment target and, of a module, its image size."""
    given = dict(deployment_target=TARGETS.get(form, 'iOS18'), input='tensor')
    if checkpoint is None:
        given['image_size'] = SIZE
    asked = ExportOptions(out=out, **{**given, **options})
    return run_export(model, checkpoint, asked)


def scores(path, images, precision='fp16'):
    found = load_program(path, arithmetic=precision).predict_batch({'image': images})
    return found['classLabel_probs']


@pytest.mark.parametrize('precision', BOUNDS)
@pytest.mark.parametrize('backbone', [TINY, ALL_KINDS], ids=['tiny', 'all'])
@pytest.mark.parametrize('form', FORMS)
def test_the_file_computes_what_was_trained(tmp_path, form, backbone, precision):
    model, images = quantized(form, backbone), pixels()
    result = export(model, tmp_path / 'a.mlpackage', form, precision=precision)
    assert result.compression.scheme == 'trained'
    assert result.tolerance == 'compress-trained'
    wanted = logits(model, images).softmax(1)
    found = scores(result.path, images, precision)
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert_close([wanted], [found], BOUNDS[precision])
    for theirs, ours in zip(
        layer_outputs_of(model, images), layer_outputs(result.path, images, precision), strict=True
    ):
        assert_close([theirs], [ours.view_as(theirs)], BOUNDS[precision])


@pytest.mark.parametrize('precision', BOUNDS)
@pytest.mark.parametrize('target', ['iOS16', 'iOS18'])
@pytest.mark.parametrize('backbone', [TINY, ALL_KINDS], ids=['tiny', 'all'])
@pytest.mark.parametrize('form', FORMS)
def test_the_integers_in_the_file_are_the_trained_ones(
    tmp_path, form, backbone, target, precision
):
    model = quantized(form, backbone)
    result = export(
        model,
        tmp_path / 'a.mlpackage',
        precision=precision,
        deployment_target=max(target, TARGETS[form]),
    )
    stored = stored_integers(result.path)
    dtype = np.float16 if precision == 'fp16' else np.float32
    for (codes, scale), (held, by, kind) in zip(trained_integers(model), stored, strict=True):
        assert kind == f'int{FORMS[form][0]}'
        assert np.array_equal(codes, held.astype(np.int32))
        assert by.dtype == dtype
        assert np.array_equal(scale.astype(dtype), by.flatten())
