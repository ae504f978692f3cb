"""The plan takes effect: in worker processes, in the optimizer, on resume.

The same look at mmpretrain's S1 recipe finds what it never does.
"""

import contextlib
import json
import math
from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from recipe_kit import Observe, on_few_images, write_images

from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.utils.config import MIM

S2 = MIM / 'configs/mobileone/mobileone-ext-s2_8xb32_in1k.py'
MMPRETRAIN_S1 = (
    Path(mmpretrain.__file__).parent / '.mim/configs/mobileone/mobileone-s1_8xb32_in1k.py'
)
EPOCHS = 4
PHASES = [
    dict(begin=0, resolution=32, magnitude=0.3),
    dict(begin=1, resolution=48, magnitude=0.5),
    dict(begin=3, resolution=64, magnitude=1.0),
]
#: RandAugment of the recipe has 7.
WANTED = {0: (32, 2.1), 1: (48, 3.5), 2: (48, 3.5), 3: (64, 7.0)}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


def recipe(images, work_dir, *, strength=1.0, stop=None, **options):
    """Our S2 recipe, with a small backbone and few epochs."""
    cfg = on_few_images(Config.fromfile(S2), images, EPOCHS)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = str(work_dir.name) + str(stop)
    cfg.model.backbone.update(arch=dict(num_blocks=(1, 1), width_factor=0.25))
    cfg.model.head.update(in_channels=32, num_classes=2, topk=(1,))
    cfg.data_preprocessor.num_classes = 2
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.topk = (1,)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[1]['scale'] = 64
    hook = next(h for h in cfg.custom_hooks if h.type == 'DynamicRegularizationHook')
    hook.update(strength=strength, phases=PHASES)
    for schedule in cfg.param_scheduler:
        schedule['end'] = EPOCHS
        schedule.pop('T_max', None)
    cfg.param_scheduler[0]['end'] = cfg.param_scheduler[1]['begin'] = 1
    if stop is not None:
        cfg.custom_hooks.append(dict(type='Stop', epoch=stop))
    cfg.merge_from_dict(options)
    return cfg


def observe(cfg):
    with contextlib.suppress(InterruptedError):
        Runner.from_cfg(cfg).train()
    return dict(Observe.seen)


def check(seen):
    for epoch, found in seen.items():
        size, magnitude = WANTED[epoch]
        assert found.sizes == {(size, size)}, epoch
        assert list(found.stamps) == pytest.approx([magnitude]), epoch
        assert found.norm_decay == {0.0}, epoch
        assert found.bias_decay == {0.0}, epoch
        # The cosine from 1e-4 to 1e-5, by epoch.
        assert list(found.conv_decay) == pytest.approx([decay(epoch)]), epoch


def decay(epoch):
    return 1e-5 + 0.5 * (1e-4 - 1e-5) * (1 + math.cos(math.pi * epoch / EPOCHS))


def test_workers_and_optimizer_follow_the_plan(images, tmp_path):
    seen = observe(recipe(images, tmp_path))
    assert sorted(seen) == list(WANTED)
    check(seen)


@pytest.mark.slow
def test_a_resumed_run_is_in_the_right_phase(images, tmp_path):
    before = observe(recipe(images, tmp_path, stop=2))
    assert sorted(before) == [0, 1, 2]
    after = observe(recipe(images, tmp_path, resume=True))
    assert sorted(after) == [2, 3]
    check({**before, **after})


@pytest.mark.slow
def test_what_is_in_force_reaches_the_visualizers(images, tmp_path):
    observe(recipe(images, tmp_path))
    records = [
        json.loads(line)
        for path in tmp_path.glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    train = [r for r in records if 'loss' in r]
    for record in train:
        size, magnitude = WANTED[record['epoch'] - 1]
        assert record['resolution'] == size
        assert record['magnitude'] == pytest.approx(magnitude)
        assert record['weight_decay'] == pytest.approx(decay(record['epoch'] - 1))
    assert len(train) == EPOCHS * 2


@pytest.mark.slow
def test_strength_0_turns_augmentation_off(images, tmp_path):
    seen = observe(recipe(images, tmp_path, strength=0))
    assert all(found.stamps == {None} for found in seen.values())
    assert [found.sizes for found in seen.values()] == [{(s, s)} for s, _ in WANTED.values()]


@pytest.mark.slow
def test_a_size_that_does_not_come_out_is_noticed(images, tmp_path):
    cfg = recipe(images, tmp_path)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[1:2] = [
        dict(type='Resize', scale=64),
        dict(type='RandomChoice', transforms=[[dict(type='RandomResizedCrop', scale=40)]]),
    ]
    with pytest.raises(SpecError, match=r'40 x 40 come out .* not 32'):
        observe(cfg)


@pytest.mark.slow
def test_mmpretrains_s1_recipe_does_none_of_it(images, tmp_path):
    cfg = on_few_images(Config.fromfile(MMPRETRAIN_S1), images, 3)
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.dataset.pipeline[1]['scale'] = 160
    schedule = cfg.custom_hooks[0].schedule
    for epoch, entry in enumerate(schedule, 2):
        entry.action_epoch = epoch
        assert 'train_pipeline' not in entry  # the misspelt key
    # Two steps of fp32 at 160 pixels: the network is as it is.
    seen = observe(cfg)
    assert [found.sizes for found in seen.values()] == [{(160, 160)}] * 3
    assert len({frozenset(found.stamps) for found in seen.values()}) == 1
    assert seen[0].norm_decay == {0.0}
    assert min(seen[2].norm_decay) > 0  # norms decay after all
