"""Apple's MobileOne as its published keys and shapes describe it.

Written from the names alone (``stageN.M.rbr_conv.K.{conv,bn}``, ``rbr_scale``, ``rbr_skip``,
``reparam_conv``, ``se.reduce/expand``, ``linear``) and table 7 of the paper; nothing of the package
is used.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = dict(
    s0=(48, 48, 128, 256, 1024),
    s1=(64, 96, 192, 512, 1280),
    s2=(64, 96, 256, 640, 2048),
    s3=(64, 128, 320, 768, 2048),
    s4=(64, 192, 448, 896, 2048),
)
BLOCKS = (2, 8, 10, 1)
SE_BLOCKS = dict(s4=(0, 0, 5, 1))


def conv_bn(cin, cout, k, stride, groups):
    conv = nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(cout)))


class SE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 16, 1)
        self.expand = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        scale = self.reduce(x.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(self.expand(F.relu(scale)))


class Unit(nn.Module):
    def __init__(self, cin, cout, k, stride, groups, branches, se):
        super().__init__()
        self.shape = (cin, cout, k, stride, groups)
        self.rbr_conv = nn.ModuleList(conv_bn(*self.shape) for _ in range(branches))
        self.rbr_scale = conv_bn(cin, cout, 1, stride, groups) if k > 1 else None
        skips = cin == cout and stride == 1
        self.rbr_skip = nn.BatchNorm2d(cout) if skips else None
        self.se = SE(cout) if se else nn.Identity()

    def linear(self, x):
        if hasattr(self, 'reparam_conv'):
            return self.reparam_conv(x)
        branches = [*self.rbr_conv, self.rbr_scale, self.rbr_skip]
        return sum(b(x) for b in branches if b is not None)

    def forward(self, x):
        return F.relu(self.se(self.linear(x)))

    def fold(self):
        """By what the branches do to impulses, not by their weights."""
        cin, cout, k, _, groups = self.shape
        unit = self.double()
        for module in unit.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        size = 2 * k - 1
        bias = unit.linear(torch.zeros(1, cin, size, size).double())
        kernel = torch.zeros(cout, cin // groups, k, k).double()
        for i in range(cin // groups):
            x = torch.zeros(1, cin, size, size).double()
            x[0, i :: cin // groups, k - 1, k - 1] = 1
            seen = (unit.linear(x) - bias)[0]
            seen = seen.flip(-1, -2)
            half = k // 2
            kernel[:, i] = seen[:, k - 1 - half : k + half, k - 1 - half : k + half]
        conv = nn.Conv2d(*self.shape[:4], k // 2, groups=groups)
        conv.weight.data.copy_(kernel)
        conv.bias.data.copy_(bias[0, :, k - 1, k - 1])
        self.float()
        del self.rbr_conv, self.rbr_scale, self.rbr_skip
        self.reparam_conv = conv


class AppleMobileOne(nn.Module):
    def __init__(self, arch='s0', num_classes=1000):
        super().__init__()
        stem, *widths = WIDTHS[arch]
        branches = 4 if arch == 's0' else 1
        self.stage0 = Unit(3, stem, 3, 2, 1, 1, False)
        cin = stem
        places = SE_BLOCKS.get(arch, (0,) * 4)
        for number, width in enumerate(widths, start=1):
            depth, se = BLOCKS[number - 1], places[number - 1]
            units = []
            for i in range(depth):
                has_se = i >= depth - se
                units.append(Unit(cin, cin, 3, 1 if i else 2, cin, branches, has_se))
                units.append(Unit(cin, width, 1, 1, 1, branches, has_se))
                cin = width
            setattr(self, f'stage{number}', nn.Sequential(*units))
        self.linear = nn.Linear(cin, num_classes)

    def forward(self, x):
        for number in range(5):
            x = getattr(self, f'stage{number}')(x)
        return self.linear(x.mean((2, 3)))

    @torch.no_grad()
    def fold(self):
        for module in list(self.modules()):
            if isinstance(module, Unit):
                module.fold()
        return self
