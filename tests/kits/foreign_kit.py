"""Their networks and ours, and whether the two agree."""

import copy

import timm
import torch
from apple_kit import AppleMobileOne
from helpers import generator, randomize_norms
from mmpretrain.registry import MODELS
from timm.utils.model import reparameterize_model

WIDTH = dict(s0=1024, s1=1280, s2=2048, s3=2048, s4=2048)
CLASSES = 10


def theirs(source, arch, folded=False):
    """A random network of theirs, every norm randomized."""
    torch.manual_seed(3)
    if source == 'timm':
        net = timm.create_model(f'mobileone_{arch}', num_classes=CLASSES)
    else:
        net = AppleMobileOne(arch, CLASSES)
    net = lively(randomize_norms(net)).eval()
    if not folded:
        return net
    return reparameterize_model(net) if source == 'timm' else net.fold()


@torch.no_grad()
def lively(net):
    """Statistics near the data's: others let the image die out on the way."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            # Open ReLUs: rounding grows less on its way than through kinks.
            module.bias.abs_()
    net.train()(image())
    rng = generator(5)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            # Scores that cancel would show the features' rounding enlarged.
            module.weight.abs_()
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
            var, mean = module.running_var, module.running_mean
            # A channel that is dead here must not explode elsewhere.
            var.clamp_(min=0.3 * var.mean().item())
            mean += 0.1 * var.sqrt() * torch.randn(mean.shape, generator=rng)
            var *= 0.9 + 0.3 * torch.rand(var.shape, generator=rng)
    return net


def ours(arch, deploy=False, classes=CLASSES):
    return MODELS.build(
        dict(
            type='DeployableClassifier',
            backbone=dict(type='ConfigurableMobileOne', arch=arch, deploy=deploy),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=WIDTH[arch]),
        )
    ).eval()


def image(size=64):
    return torch.randn(2, 3, size, size, generator=generator(1))


@torch.no_grad()
def scores(net, dtype=torch.float32):
    out = copy.deepcopy(net).to(dtype)(image().to(dtype))
    if isinstance(out, tuple):
        return net.to(dtype).head(out)
    return out
