"""Every variant of every ablation can be built and differs."""

import pytest
from mmengine.config import Config
from mmpretrain import get_model

from mmpretrain_mobileone_ext.commands.training.ablation import grid_from
from mmpretrain_mobileone_ext.utils.config import MIM

CONFIGS = sorted((MIM / 'configs/ablations').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_each_variant_is_a_network_of_its_own(path):
    config = Config.fromfile(path)
    grid = grid_from(config.ablation)
    assert len(grid.seeds) == 3
    shown = set()
    for options in grid.variants.values():
        variant = Config.fromfile(path)
        variant.merge_from_dict(options)
        shown.add(str(get_model(variant).backbone))
    assert len(shown) == len(grid.variants) > 2


def test_there_are_ablations():
    assert len(CONFIGS) == 6
