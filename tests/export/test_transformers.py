"""MMPretrain's transformers with windows, exported and scored.

Each is a fraction of its depth and width; norms and position biases are random, since fresh ones
hide what is exchanged.
"""

from __future__ import annotations

import pytest
import torch
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export

SMALL = {'embed_dims': 32, 'depths': [2, 2], 'num_heads': [2, 4]}
NETWORKS = {
    'swin': (
        {
            'type': 'SwinTransformer',
            'arch': SMALL,
            'img_size': 64,
            'window_size': 4,
            'out_indices': (1,),
        },
        64,
        True,
    ),
    'swin v2': (
        {
            'type': 'SwinTransformerV2',
            'img_size': 64,
            'arch': {**SMALL, 'extra_norm_every_n_blocks': 0},
            'window_size': [4, 4],
            'out_indices': (1,),
        },
        64,
        True,
    ),
    'tnt': (
        {
            'type': 'TNT',
            'img_size': 64,
            'patch_size': 16,
            'in_channels': 3,
            'arch': {
                'embed_dims_outer': 48,
                'embed_dims_inner': 12,
                'num_layers': 2,
                'num_heads_outer': 3,
                'num_heads_inner': 2,
            },
        },
        48,
        False,
    ),
}


@torch.no_grad()
def network(name):
    backbone, width, pooled = NETWORKS[name]
    torch.manual_seed(0)
    cfg = {
        'type': 'ImageClassifier',
        'backbone': dict(backbone),
        'head': {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': width},
        'data_preprocessor': {'mean': [120.0, 110, 100], 'std': [60.0, 50, 40], 'to_rgb': True},
    }
    if pooled:
        cfg['neck'] = {'type': 'GlobalAveragePooling'}
    model = MODELS.build(cfg).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.3, 0.3)
    for key, value in model.named_parameters():
        if 'position_bias_table' in key:
            value.normal_(0, 0.5)
    model.head.fc.weight.normal_(0, 0.2)
    return model


# Tracing warns of Python numbers; mmcv-lite, of an operation that it lacks.
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('name', NETWORKS)
def test_exports_and_scores(name, precision, tmp_path):
    path = tmp_path / 'm.mlpackage'
    result = run_export(
        network(name),
        None,
        ExportOptions(out=path, image_size=64, classes=list('abcde'), precision=precision),
    )
    assert result.verification.parity.top1_agreement == 1
    assert load_program(path).program.count_operations()['scatter'] >= 2
