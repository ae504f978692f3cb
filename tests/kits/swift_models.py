"""Tiny classifiers of every kind that a Swift package is made of."""

from export_kit import TINY, build, model_cfg, photos, save, write_config

from mmpretrain_mobileone_ext.coreml import export_coreml

#: Labels that break whatever is not escaped.
LABELS = ('it\'s "a" \\(b)', 'zwei\tTabs,\nzwei Zeilen', '日本 \U0001f40c {{ x }}')
LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
PIPELINES = dict(
    rgb=[
        LOAD,
        dict(type='ResizeEdge', scale=40, backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=(32, 24)),
        PACK,
    ],
    bgr=[LOAD, dict(type='Resize', scale=(32, 24)), PACK],
    gray=[
        dict(LOAD, color_type='grayscale'),
        dict(type='EfficientNetCenterCrop', crop_size=24, backend='pillow'),
        PACK,
    ],
)
NAMES = dict(rgb='Rgb.mlpackage', bgr='b g-r "2".mlpackage', gray='g.mlmodel')
KINDS = tuple(NAMES)
CORE_AI_NAMES = {kind: f'{kind} 1.aimodel' for kind in KINDS}


def export(kind, folder, name=None, **options):
    """Export a tiny classifier; ``options`` are those of the exporter."""
    data = photos(folder / 'data', count=1, gray=kind == 'gray')
    gray = kind == 'gray'
    cfg = model_cfg(
        dict(TINY, in_channels=1) if gray else TINY,
        preprocessor=dict(mean=[90.0], std=[70.0]) if gray else dict(to_rgb=kind == 'rgb'),
    )
    config = write_config(folder / 'c.py', data, cfg, PIPELINES[kind])
    checkpoint = save(build(cfg), folder / 'c.pth')
    return export_coreml(
        config, checkpoint, folder / (name or NAMES[kind]), classes=LABELS, verify_data=3, **options
    )
