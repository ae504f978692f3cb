"""Toy runs that end with an export, and what they leave."""

import json

from toy_runner import toy_cfg, toy_runner

# The images and the oracle of the export tests.

STEPS = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
#: Needs no images: seeded noise of the size of the toy images is compared.
NOISE = dict(type='CoreMLExportHook', verify_data='none', input='tensor', image_size=16)


def split(photos):
    """A test split of image files, on which an export can be scored."""
    return dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(
            type='CustomDataset',
            data_root=str(photos),
            data_prefix='test',
            metainfo=dict(classes=('dark', 'grey', 'light')),
            with_label=True,
            pipeline=STEPS,
        ),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


def logged(folder):
    """All lines of all logs of a work dir."""
    texts = [p.read_text() for p in sorted(folder.rglob('*.log'))]
    return ''.join(texts).splitlines()


def scalars(folder):
    """Core ML figures that the visualizer has, by step."""
    found = {}
    for path in folder.glob('*/vis_data/scalars.json'):
        for line in map(json.loads, path.read_text().splitlines()):
            if 'coreml/size_mib' in line:
                found[line.pop('step')] = line
    return found


def trained(folder, *hooks, **options):
    """A finished toy run with its log at INFO."""
    runner = toy_runner(folder, *hooks, log_level='INFO', **options)
    runner.train()
    return runner


def packages(folder):
    """Core ML files of a work dir."""
    return sorted(folder.glob('*.ml*'))


def hooks_of_checkpoint(folder, **changes):
    """Default hooks of a toy run, its CheckpointHook changed."""
    hooks = toy_cfg(folder).default_hooks
    hooks.checkpoint.update(changes)
    return hooks
