"""Small networks, saved for each target, and a trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from runtime_kit import save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.export.verify import Verification
from mmpretrain_mobileone_ext.utils.parity import compare

SHAPE = (1, 3, 12, 12)
NAMES = [f'c{i}' for i in range(10)]
METADATA = {'source_sha256': 'abc', 'mean': '[1.0, 2.0, 3.0]'}


def small_net(seed=0):
    """Stem, depthwise, pointwise, depthwise, pointwise, classifier."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 192, 1),
        nn.ReLU(),
        nn.Conv2d(192, 192, 3, 1, 1, groups=192),
        nn.ReLU(),
        nn.Conv2d(192, 64, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    with torch.no_grad():
        for layer in net:
            if hasattr(layer, 'weight'):
                # Channels of different range, as folding leaves them.
                channels = layer.weight.shape[0]
                scale = torch.logspace(-0.7, 0.4, channels)
                shape = [-1] + [1] * (layer.weight.dim() - 1)
                layer.weight.mul_(scale.reshape(shape))
    return nn.Sequential(*net, nn.Softmax(1)).eval()


def save_small(
    folder, target='iOS16', kind='mlprogram', name='small', net=None, example=None, **kwargs
):
    """The small network as a classifier, fp16, with metadata."""
    ct = quiet.coremltools()
    if kind == 'mlprogram':
        kwargs.setdefault('minimum_deployment_target', ct.target[target])
        kwargs.setdefault('compute_precision', ct.precision.FLOAT16)
    kwargs.setdefault('inputs', [ct.TensorType('image', shape=SHAPE)])
    kwargs.setdefault('classifier_config', ct.ClassifierConfig(list(NAMES)))
    example = torch.rand(SHAPE) if example is None else example
    path = save_torch(net or small_net(), folder, example, f'bare-{name}', kind, **kwargs)
    model = ct.models.MLModel(str(path), skip_model_load=True)
    model.author, model.license = 'A. Author', 'MIT'
    model.user_defined_metadata.update(METADATA)
    named = path.with_name(f'{name}{path.suffix}')
    model.save(str(named))
    return named


def images(count=16, seed=0):
    """Inputs (N, 3, 12, 12), 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    return {'image': torch.rand(count, *SHAPE[1:], generator=generator)}


def scores_of(path, inputs):
    """Probabilities (N, classes), executed in fp16."""
    loaded = load_program(path, arithmetic='fp16')
    (name,) = [f.name for f in loaded.program.outputs if f.kind == 'dictionary']
    return loaded.predict_batch(inputs)[name]


def dense_of(path):
    """Operation name to dense weight, as our reader decodes it."""
    return {w.name: w.values.astype(np.float64) for w in find_weights(read_program(path))}


def stored_of(path):
    """Operation name to the constexpr operation of its weight."""
    return {w.name: w.stored_as for w in find_weights(read_program(path))}


def decompressed(path, folder):
    """A copy that coremltools has written with dense weights."""
    with quiet.conversion() as ct:
        model = ct.models.MLModel(str(path), skip_model_load=True)
        optimize = quiet.module('coremltools.optimize.coreml')
        out = Path(folder) / f'dense-{path.name}'
        optimize.decompress_weights(model).save(str(out))
    return out


def sparsity(values):
    """Share of zeros."""
    return float((np.asarray(values) == 0).mean())


def verified(reference, scores, labels=None):
    """The comparison that the exporter makes of two (N, K) scores."""

    def share(found):
        if labels is None:
            return None
        return float((found.argmax(1) == labels).double().mean())

    return Verification(
        parity=compare(reference, scores, classes=True),
        tolerance='export-fp16',
        images='test images',
        top1_reference=share(reference),
        top1_candidate=share(scores),
        overflows={},
        operations={},
        system='iOS16',
    )
