"""Which models are compared, and what others published of them.

The only figures of a comparison that are not measured in it: those of mmpretrain's model hub, and
of the paper in ``published.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmpretrain import list_models
from mmpretrain.apis import ModelHub

from ...errors import SpecError
from ...utils.config import read_config

FILE = Path(__file__).with_name('published.json')
_DATASET = 'ImageNet-1k'
_METRIC = 'Top 1 Accuracy'


@dataclass(frozen=True)
class Published:
    """What a source says of a model.

    Attributes:
        kind: 'hub' or 'paper'.
        source: where it is written.
        top1: on ImageNet-1k's validation split, percent.
        mobile_ms: latency on a phone, as the source measured it.
    """

    kind: str
    source: str
    top1: Optional[float] = None
    mobile_ms: Optional[float] = None


def from_hub(meta: Any) -> list[Published]:
    """Accuracy in a model hub's entry; empty where it has none."""
    found = [
        result.metrics[_METRIC]
        for result in meta.results or []
        if result.dataset == _DATASET and _METRIC in result.metrics
    ]
    return [Published('hub', f'metafile of {meta.name}', top1=float(value)) for value in found[:1]]


def from_paper(label: str) -> list[Published]:
    """What the MobileOne paper measured of an architecture.

    Args:
        label: e.g. 'mobilenet-v2'; ours ('mobileone-ext-s0') have the paper's architectures.
    """
    document = json.loads(FILE.read_text(encoding='utf-8'))
    key = label.lower().replace('mobileone-ext-', 'mobileone-')
    found = document['figures'].get(key)
    if found is None:
        return []
    return [
        Published('paper', document['source'][found['table']], found['top1'], found['mobile_ms'])
    ]


def pick(published: Sequence[Published], kind: str) -> Optional[Published]:
    """The first of a kind."""
    return next((p for p in published if p.kind == kind), None)


def best_top1(published: Sequence[Published]) -> Optional[float]:
    """Of the hub's weights, else of the paper; None where nobody says."""
    for kind in ('hub', 'paper'):
        found = pick(published, kind)
        if found is not None and found.top1 is not None:
            return found.top1
    return None


DEFAULT = (
    *(f'mobileone-ext-s{i}_8xb32_in1k' for i in range(5)),
    'efficientnet-b0_3rdparty_8xb32_in1k',
    'mobilenet-v2_8xb32_in1k',
    'mobilenet-v3-small_8xb128_in1k',
    'mobilenet-v3-large_8xb128_in1k',
    'shufflenet-v2-1x_16xb64_in1k',
    'repvgg-A0_8xb32_in1k',
)


@dataclass(frozen=True)
class Entry:
    """A model to compare.

    Attributes:
        name: as it was given, a config file without folder and suffix.
        label: the architecture, what is before the first underscore.
        config: of the classifier, its ``data_preprocessor`` in it.
        origin: where the config is from.
        published: what others say of it.
    """

    name: str
    label: str
    config: dict[str, Any]
    origin: str
    published: tuple[Published, ...]

    @property
    def is_ours(self) -> bool:
        return self.label.startswith('mobileone')


def resolve(names: Sequence[str]) -> list[Entry]:
    """Find the models.

    Raises:
        SpecError: a name that is neither in the hub nor a file, a config without model, or two
            models of the same name.
    """
    entries = [_resolve(name) for name in names]
    seen = [e.name for e in entries]
    twice = sorted({name for name in seen if seen.count(name) > 1})
    if twice:
        raise SpecError(f'given more than once: {", ".join(twice)}')
    return _with_labels(entries)


def _resolve(name: str) -> Entry:
    if name.endswith('.py'):
        return _from_file(Path(name))
    known = list_models()
    if name.lower() in known:
        meta = ModelHub.get(name)
        return _entry(name, _model(meta.config, name), 'model hub', from_hub(meta))
    raise SpecError(
        f'{name!r} is neither a config file (*.py) nor one of the '
        f'{len(known)} names of mmpretrain.list_models()'
    )


def _from_file(path: Path) -> Entry:
    if not path.is_file():
        raise SpecError(f'{path}: no such config file')
    return _entry(path.stem, _model(read_config(path), path), str(path), [])


def _model(config: Config, name: Any) -> dict[str, Any]:
    if not isinstance(config.get('model'), dict):
        raise SpecError(f'{name}: the config has no model')
    model = config.model.to_dict()
    # As mmengine's Runner does; batch augmentations are for training.
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor.to_dict())
    model.pop('train_cfg', None)
    return model


def _entry(name: str, config: dict[str, Any], origin: str, hub: Sequence[Published]) -> Entry:
    label = name.split('_')[0]
    return Entry(name, label, config, origin, (*hub, *from_paper(label)))


def _with_labels(entries: Sequence[Entry]) -> list[Entry]:
    """Labels that several models share give way to the names."""
    labels = [e.label for e in entries]
    return [
        e if labels.count(e.label) == 1 else Entry(e.name, e.name, e.config, e.origin, e.published)
        for e in entries
    ]
