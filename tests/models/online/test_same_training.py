"""Training by the online methods is the training of the branches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from mmpretrain_mobileone_ext import ConfigurableMobileOne

pytestmark = pytest.mark.slow

ARCH = dict(
    num_blocks=(1, 1),
    width_factor=(1, 1),
    num_conv_branches=(3, 2),
    base_channels=(8, 16),
    stem_stride=1,
)
STEPS = 200


@pytest.fixture(scope='module')
def digits():
    data = load_digits()
    images = torch.tensor(data.images).unsqueeze(1) / 16
    return images - images.mean(), torch.tensor(data.target)


class Classifier(nn.Module):
    def __init__(self, preference):
        super().__init__()
        self.net = ConfigurableMobileOne(ARCH, in_channels=1, online_reparam=preference)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.net(x)[-1].mean((2, 3)))


def train(model, images, labels, steps, seed=0, start=0):
    """Losses of SGD steps on batches that ``seed`` draws."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(start + steps):
        batch = torch.randint(len(images), (32,), generator=order)
        if step < start:
            continue
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def twins(dtype, seed=0):
    torch.manual_seed(seed)
    online = Classifier(True).to(dtype).train()
    branches = Classifier(False).to(dtype).train()
    branches.load_state_dict(online.state_dict())
    return online, branches


def test_loss_curves_are_equal(digits):
    images, labels = digits
    curves = [train(m, images.double(), labels, STEPS) for m in twins(torch.float64)]
    assert (curves[0] - curves[1]).abs().max() < 1e-6
    assert curves[0][-20:].mean() < 0.5 * curves[0][:5].mean()


def test_checkpoints_are_interchangeable_at_any_step(digits):
    images, labels = digits
    online, branches = twins(torch.float64)
    train(online, images.double(), labels, 30)
    branches.load_state_dict(copy.deepcopy(online.state_dict()))
    curves = [train(m, images.double(), labels, 30, start=30) for m in (online, branches)]
    assert (curves[0] - curves[1]).abs().max() < 1e-8


def test_float32_reaches_the_same_accuracy(digits):
    images, labels = (digits[0].float(), digits[1])
    gaps = []
    for seed in range(3):
        accuracy = []
        for model in twins(torch.float32, seed):
            train(model, images, labels, STEPS, seed)
            with torch.no_grad():
                found = model.eval()(images).argmax(1)
            accuracy.append((found == labels).double().mean().item())
        gaps.append(accuracy[0] - accuracy[1])
    assert abs(sum(gaps) / 3) < 0.02
