"""Small classifiers, data and checkpoints for the export tests."""

import copy
from pathlib import Path

import numpy as np
import torch
from mmpretrain.registry import MODELS
from PIL import Image

import mmpretrain_mobileone_ext

CLASSES = ('ant', 'bee', 'cat')
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
TOOL = Path(__file__).resolve().parents[2] / 'tools/export_coreml.py'
TINY = dict(
    type='ConfigurableMobileOne',
    arch=dict(num_blocks=(1, 1), width_factor=0.25),
    num_conv_branches=2,
    stem_stride=1,
)
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=32)


def model_cfg(backbone=TINY, head=HEAD, kind='DeployableClassifier', preprocessor=None, **kwargs):
    """Config of a classifier with three classes."""
    return dict(
        type=kind,
        backbone=dict(backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(head),
        data_preprocessor=dict(
            dict(mean=list(MEAN), std=list(STD), to_rgb=True), **(preprocessor or {})
        ),
        **kwargs,
    )


@torch.no_grad()
def randomize(model, seed=0):
    """Random weights and batch norm statistics, tame enough for fp16."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(t, low, high):
        t.copy_(torch.rand(t.shape, generator=generator) * (high - low) + low)

    for m in model.modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            uniform(m.weight, 0.5, 1.2)
            uniform(m.bias, -0.3, 0.3)
            uniform(m.running_mean, -0.3, 0.3)
            uniform(m.running_var, 0.5, 2)
        elif isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            bound = (3 / m.weight[0].numel()) ** 0.5
            uniform(m.weight, -bound, bound)
            if m.bias is not None:
                uniform(m.bias, -0.2, 0.2)
    return model.eval()


def build(cfg=None, seed=0):
    """A classifier with random weights, in eval mode."""
    return randomize(MODELS.build(copy.deepcopy(cfg or model_cfg())), seed)


def save(model, path, classes=CLASSES):
    """Write a checkpoint as mmengine's runner does."""
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def photos(folder, count=4, size=32, seed=0, gray=False):
    """Write test/<class>/<i>.png, random blocks of color."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / 'test' / name).mkdir(parents=True)
        for i in range(count):
            blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            pixels = blocks.repeat(size // 4, 0).repeat(size // 4, 1)
            image = Image.fromarray(pixels)
            image = image.convert('L') if gray else image
            image.save(folder / 'test' / name / f'{i}.png')
    return folder


def write_config(path, data, model=None, pipeline=None, extra=''):
    """Write a config file with a test split."""
    steps = pipeline or [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=32),
        dict(type='PackInputs'),
    ]
    dataset = dict(
        type='CustomDataset',
        data_root=str(data),
        data_prefix='test',
        with_label=True,
        pipeline=steps,
    )
    path.write_text(
        "custom_imports = dict(imports=['mmpretrain_mobileone_ext'])\n"
        f'model = {model or model_cfg()!r}\n'
        f'test_dataloader = dict(batch_size=4, dataset={dataset!r})\n{extra}'
    )
    return path


def files(data):
    """All images of the test split, in the data set's order."""
    return sorted((data / 'test').rglob('*.png'))


def oracle(model, images, mean=MEAN, std=STD):
    """Probabilities (N, K), fp64, of arrays (N, H, W, C) in network order.

    Written out, without the model's own pre- and postprocessing.
    """
    x = torch.from_numpy(np.stack(images)).double().permute(0, 3, 1, 2)
    shift, scale = (torch.tensor(v).double().view(1, -1, 1, 1) for v in (mean, std))
    double = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        logits = double((x - shift) / scale, mode='tensor')
    exp = (logits - logits.max(1, keepdim=True).values).exp()
    return exp / exp.sum(1, keepdim=True)


def rgb(path):
    """Pixels (H, W, 3) of an image file, RGB."""
    return np.array(Image.open(path).convert('RGB'))


def relative(found, wanted):
    """||found - wanted|| / ||wanted||."""
    found = torch.as_tensor(found).double()
    return float((found - wanted).norm() / wanted.norm())


def before_first_conv(program):
    """Types of the operations before the first convolution."""
    types = [op.type for op in program.operations]
    return types[: types.index('conv')]


def snapshot(folder):
    """Every path below a folder with its content, to prove no change."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob('*'))
    }


def switched(model):
    """The model, its blocks folded."""
    return mmpretrain_mobileone_ext.switch_to_deploy(model)
