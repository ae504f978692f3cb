"""Networks that need fp32 in known places, converted and judged."""

import torch
from export_kit import CLASSES, build, switched
from torch import nn

from mmpretrain_mobileone_ext.coreml.convert import INPUT, convert_and_save
from mmpretrain_mobileone_ext.export.data import Images
from mmpretrain_mobileone_ext.export.network import Prepared, prepare
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.export.verify import Judge, classifier
from mmpretrain_mobileone_ext.models.preprocessing import read_preprocessing

SIZE = (32, 32)


@torch.no_grad()
def overflowing(factor=2**13):
    """Activations of 1e5 (for 2^13) after one layer; the next one scales back.

    Powers of two, so that the function is the same to the last bit.
    """
    model = switched(build())
    blocks = [m for m in model.modules() if hasattr(m, 'branch_reparam')]
    for parameter in blocks[1].branch_reparam.parameters():
        parameter *= factor
    blocks[2].branch_reparam.weight /= factor
    return model


class Drifting(nn.Module):
    """An offset that the next layer takes away, but not its rounding.

    Between ``first`` and ``second`` values are near 4096, where fp16 numbers lie 4 apart.
    """

    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.first = nn.Conv2d(8, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, classes, 3)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator) / 4)
        self.stem.weight.data /= 64
        self.first.bias.data += 4096
        self.second.bias.data -= 4096 * self.second.weight.data.sum((1, 2, 3))

    def forward(self, x, mode='tensor'):
        # No relu between them: it would be in the set as well.
        x = self.second(self.first(torch.relu(self.stem(x))))
        return self.last(torch.relu(x)).mean((2, 3))


class Case:
    """A network as the exporter has it, and files made from it."""

    def __init__(self, model, folder, prepared=None, network=None, arithmetic='fp16'):
        like = build()
        self.pre = read_preprocessing(like.data_preprocessor, 3, SIZE, 'BGR')
        self.prepared = prepared or prepare(model, self.pre)
        images = Images('noise', self.pre.shape)
        self.judge = Judge(network or classifier(model), self.pre, images, arithmetic=arithmetic)
        pixels = next(images.chunks())[0]
        flipped = pixels.flip(1) if self.pre.flips else pixels
        self.inputs = {INPUT: flipped.float()}
        self.keeps = {}  # by file
        self._folder = folder

    def convert(self, keep, **options):
        path = self._folder / f'{len(self.keeps)}.mlpackage'
        self.keeps[path] = keep
        options = ExportOptions(path, precision='auto', **options)
        convert_and_save(self.prepared, self.pre, CLASSES, options, path, keep)
        return path

    def evaluate(self, path):
        return self.judge.score(path, 'auto')


def drifting_case(folder):
    """A case of ``Drifting``; its pixels come as they are."""
    net = Drifting().eval()
    prepared = Prepared(net, None, 'none')

    @torch.no_grad()
    def network(batch):
        pre = read_preprocessing(build().data_preprocessor, 3, SIZE, 'BGR')
        pixels = batch.flip(1) if pre.flips else batch
        shift = torch.tensor(pre.mean).view(1, -1, 1, 1)
        double = Drifting().double().eval()
        logits = double(pixels.double() - shift)
        return {'classLabel_probs': logits.softmax(1)}

    return Case(net, folder, prepared, network)
