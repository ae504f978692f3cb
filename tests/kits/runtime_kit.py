"""Tiny programs, converted and saved, for the tests of the runtime.

Whatever is converted here is written to disk and read back from it: the runtime under test never
sees coremltools' in-memory program.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.front_end import for_coremltools
from mmpretrain_mobileone_ext.coreml.program import quiet

RNG = np.random.default_rng(0)


def noise(*shape, low=-3.0, high=3.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


X = noise(1, 4, 6, 5, low=-9, high=9)
POSITIVE = noise(1, 4, 6, 5, low=0.1)
UNIT = noise(1, 4, 6, 5, low=-0.9, high=0.9)
SMALL = noise(2, 3)
PER_CHANNEL = np.linspace(-0.5, 0.7, 4).astype(np.float32)

SIZE = (24, 16)
LABELS = ['ant', 'bee', 'cat', 'dog', 'eel']


class TinyNet(nn.Module):
    """Conv, squeeze-and-excite, PReLU, head: (N, C, H, W) to (N, 5)."""

    def __init__(self, channels: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.act = nn.PReLU(8)
        self.head = nn.Linear(8, len(LABELS))
        self.gain = gain
        randomize(self)

    def logits(self, x):
        x = self.norm(self.conv(x))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.act(x).mean((2, 3)) * self.gain)

    def forward(self, x):
        return torch.softmax(self.logits(x), 1)


@torch.no_grad()
def randomize(model, seed=0):
    """Random parameters and normalization statistics, evaluation mode."""
    rng = torch.Generator().manual_seed(seed)

    def draw(like, low, high):
        like.copy_(low + (high - low) * torch.rand(like.shape, generator=rng))

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            draw(module.running_mean, -0.5, 0.5)
            draw(module.running_var, 0.5, 1.5)
            draw(module.weight, 0.5, 1.5)
            draw(module.bias, -0.5, 0.5)
        elif isinstance(module, nn.PReLU):
            draw(module.weight, -0.5, 0.5)
        elif isinstance(module, nn.Linear):
            # Peaked probabilities: flat ones hide errors of the logits.
            module.weight.mul_(4)
    return model.eval()


def save_torch(model, folder, example, name='model', kind='mlprogram', exported=False, **kw):
    """Trace or export, convert and save ``model``; returns the path."""
    with quiet.conversion() as ct:
        if kind == 'mlprogram':
            kw.setdefault('minimum_deployment_target', ct.target.iOS16)
            kw.setdefault('compute_precision', ct.precision.FLOAT32)
        if exported:
            program = for_coremltools(model, [example.shape])
        else:
            program = torch.jit.trace(model, example)
        converted = ct.convert(program, convert_to=kind, skip_model_load=True, **kw)
        suffix = '.mlpackage' if kind == 'mlprogram' else '.mlmodel'
        path = folder / f'{name}{suffix}'
        converted.save(str(path))
    return path


def image_input(shape, layout='RGB', **kwargs):
    ct = quiet.coremltools()
    return ct.ImageType(
        name='image', shape=shape, color_layout=getattr(ct.colorlayout, layout), **kwargs
    )


def classifier_config(labels=LABELS):
    return quiet.coremltools().ClassifierConfig(list(labels))


def _mil_type(types, dtype):
    if dtype == np.int8:  # from iOS 26 on
        return types.int8
    return types.int32 if dtype.kind == 'i' else types.fp32


def save_mil(build, inputs, folder, target='iOS16', half=False):
    """Save a MIL program built by ``build(mb, **vars)``, unoptimized.

    ``inputs`` maps names to example arrays.
    """
    with quiet.conversion() as ct:
        mil = ct.converters.mil.mil
        mb = mil.Builder
        holders = {
            name: mb.placeholder(
                np.shape(value), dtype=_mil_type(mil.types, np.asarray(value).dtype)
            )
            for name, value in inputs.items()
        }
        with mil.Function(holders, opset_version=ct.target[target]) as main:
            result = build(mb, **main.inputs)
            outputs = result if isinstance(result, (list, tuple)) else [result]
            main.set_outputs(list(outputs))
        program = mil.Program()
        program.add_function('main', main)
        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        pipeline = None if half else ct.PassPipeline.EMPTY
        converted = ct.convert(
            program,
            convert_to='mlprogram',
            compute_precision=precision,
            minimum_deployment_target=ct.target[target],
            pass_pipeline=pipeline,
            skip_model_load=True,
        )
        path = folder / 'op.mlpackage'
        converted.save(str(path))
    return path


def preprocess(pixels):
    """What the tiny package does to (N, 3, H, W) pixels first."""
    bias = torch.tensor([-2.1, -2.0, -1.8]).reshape(3, 1, 1)
    return pixels.float() / 58 + bias


def relative_error(got, wanted):
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-12))


def column(values):
    return np.asarray(values).reshape(1, -1, 1, 1)


def run(op_type, folder, inputs, target='iOS16', **params):
    """Save a one-operation program; return its outputs as computed."""

    def build(mb, **variables):
        return getattr(mb, op_type)(**variables, **params)

    path = save_mil(build, inputs, folder, target)
    loaded = load_program(path)
    assert op_type in loaded.program.count_operations()
    results = loaded.predict(inputs)
    return [results[feature.name] for feature in loaded.program.outputs]


def run_all(cases, folder, **inputs):
    """Save one program with many operations on the same input ``x``.

    ``cases`` maps keys to (operation, parameters); ``inputs`` replaces the example ``x``. Returns
    key to result. One conversion for all keeps the suite fast.
    """
    inputs = inputs or {'x': X}
    names = {key: f'case_{i}' for i, key in enumerate(cases)}

    def build(mb, x):
        return [
            getattr(mb, op_type)(x=x, name=names[key], **params)
            for key, (op_type, params) in cases.items()
        ]

    loaded = load_program(save_mil(build, inputs, folder))
    counted = loaded.program.count_operations()
    assert set(counted) == {op_type for op_type, _ in cases.values()}
    results = loaded.predict(inputs)
    check_batch(loaded, inputs['x'], results)
    return {key: results[name] for key, name in names.items()}


def check_batch(loaded, x, single):
    """Batched evaluation gives every sample what it gets alone."""
    both = torch.tensor(np.stack([x[..., ::-1].copy(), x]))
    batch = loaded.predict_batch({'x': both})
    for name, wanted in single.items():
        got = batch[name][1].reshape(wanted.shape)
        assert relative_error(got, wanted) < 1e-6, name


def check(got, wanted, tolerance=2e-6):
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def photo(channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (*SIZE, channels) if channels > 1 else SIZE
    return rng.integers(0, 256, shape, dtype=np.uint8)


def planar(array):
    """(H, W, C) or (H, W) to a tensor (1, C, H, W)."""
    return torch.tensor(np.atleast_3d(array)).permute(2, 0, 1)[None]
