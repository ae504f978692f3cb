"""MMPretrain's networks as ``.aimodel`` files, by Apple's interpreter, against torch."""

import pytest
import torch
from coreai_kit import needs_core_ai
from helpers import randomize_norms
from mmpretrain import get_model

from mmpretrain_mobileone_ext.coreml.convert import INPUT, PROBABILITIES
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export

pytestmark = [needs_core_ai, pytest.mark.slow]

NETWORKS = (
    'mobileone-s0_8xb32_in1k',
    'mobilenet-v2_8xb32_in1k',
    'mobilenet-v3-small_8xb128_in1k',
    'shufflenet-v2-1x_16xb64_in1k',
    'efficientnet-b0_3rdparty_8xb32_in1k',
    'resnet18_8xb32_in1k',
    'repvgg-A0_8xb32_in1k',
)


@pytest.mark.parametrize('name', NETWORKS)
def test_an_fp32_file_is_its_network(name, tmp_path):
    torch.manual_seed(0)
    model, out = randomize_norms(get_model(name)).eval(), tmp_path / 'm.aimodel'
    with torch.no_grad():
        # A random network's logits are far apart, and its probabilities 0 and 1 at any rounding.
        head = model.head.fc
        images = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1))
        data = model.data_preprocessor({'inputs': images.flip(1)})
        largest = model(data['inputs'], mode='tensor').abs().max()
        for parameter in head.parameters():
            parameter.mul_(4 / largest)
        wanted = model(data['inputs'], mode='tensor').softmax(1)
    labels = [str(i) for i in range(1000)]
    options = dict(precision='fp32', verify_data='none', image_size=[64], classes=labels)
    run_export(model, None, ExportOptions(out, **options))
    found = format_of(out).load(out).predict_batch({INPUT: images.float()})[PROBABILITIES]
    assert wanted.max() < 0.5
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4
