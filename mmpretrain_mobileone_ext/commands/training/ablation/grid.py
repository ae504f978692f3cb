"""Which variants are trained: from the config or the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import yaml

from ....errors import SpecError
from ....utils.text import one_line

_UNSAFE = re.compile(r'[^A-Za-z0-9.+-]+')


@dataclass(frozen=True)
class Trial:
    """One training run: a variant and a seed."""

    variant: str
    seed: int
    options: dict[str, Any] = field(hash=False)

    @property
    def folder(self) -> str:
        """Relative path of its work dir."""
        return f'{_slug(self.variant)}/seed{self.seed}'


@dataclass(frozen=True)
class Grid:
    """Variants by name, each with the config options that make it.

    Attributes:
        variants: name to options, as ``Config.merge_from_dict`` takes them: dotted keys; a dict
            value may hold ``_delete_=True``.
        seeds: of ``randomness.seed``; each variant is trained with all.
    """

    variants: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_variants(self.variants)
        if (
            not self.seeds
            or len(set(self.seeds)) != len(self.seeds)
            or any(type(seed) is not int or seed < 0 for seed in self.seeds)
        ):
            raise SpecError(f'seeds={self.seeds!r} must be different integers >= 0, at least one')

    def trials(self) -> Iterator[Trial]:
        """All runs; every variant once before any runs again."""
        for seed, (name, options) in itertools.product(self.seeds, self.variants.items()):
            yield Trial(name, seed, {**options, 'randomness.seed': seed})


def grid_from(
    ablation: Optional[Mapping[str, Any]],
    vary: Sequence[str] = (),
    seeds: Optional[Sequence[int]] = None,
) -> Grid:
    """The grid of a config's ``ablation`` dict and of ``--vary`` options.

    Args:
        ablation: ``dict(variants={name: options}, seeds=(0, 1, 2))``.
        vary: ``KEY=VALUES`` with the values as YAML, comma-separated, such as
            ``model.backbone.num_conv_branches=1,2,4`` or ``...act_cfg= {type: ReLU}, {type:
            SiLU}``. Several make the product, and with the config's variants too.
        seeds: win over those of the config.

    Raises:
        SpecError: no variants at all, or one that cannot be read.
    """
    given = dict(ablation or {})
    unknown = sorted(set(given) - {'variants', 'seeds'})
    if unknown:
        raise SpecError(
            f"the config's ablation has unknown keys {unknown}; allowed are 'variants' and 'seeds'"
        )
    axes = [_axis(text) for text in vary]
    _check_keys([key for axis in axes for key in axis[0][1]])
    named = given.get('variants')
    if named is not None:
        _check_variants(named)
        axes.insert(0, [(name, dict(o)) for name, o in named.items()])
    if not axes:
        raise SpecError(
            'nothing to vary: give --vary KEY=VALUE,VALUE or a '
            'config with ablation = dict(variants=...)'
        )
    variants: dict[str, dict[str, Any]] = {}
    for chosen in itertools.product(*axes):
        options: dict[str, Any] = {}
        for _, part in chosen:
            options.update(part)
        name = ', '.join(name for name, _ in chosen)
        if name in variants:
            raise SpecError(f"two variants are named {name!r}; name them in the config's ablation")
        variants[name] = options
    wanted = given.get('seeds', (0,)) if seeds is None else seeds
    return Grid(variants, tuple(wanted))


def _axis(text: str) -> list[tuple[str, dict[str, Any]]]:
    key, equal, values = text.partition('=')
    key = key.strip()
    try:
        parsed = yaml.safe_load(f'[{values}]') if key and equal else None
    except yaml.YAMLError as error:
        raise SpecError(
            f'--vary {text}: the values are no YAML list: {one_line(str(error), 1000)}'
        ) from error
    if not parsed:
        raise SpecError(f'--vary {text!r} must be KEY=VALUE,VALUE,...')
    short = key.rpartition('.')[2]
    names = [_shown(value) for value in parsed]
    # 1 and '1', or two of the same type, are told apart as Python does.
    names = [name if names.count(name) == 1 else repr(value) for name, value in zip(names, parsed)]
    return [(f'{short}={name}', {key: value}) for name, value in zip(names, parsed)]


def _check_keys(keys: Sequence[str]) -> None:
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise SpecError(
            f'--vary gives {twice[0]!r} more than once; give all '
            'its values in one: KEY=VALUE,VALUE,...'
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get('type'), str):
        return value['type']
    return str(value).replace(' ', '')


def _check_variants(variants: Any) -> None:
    if (
        not isinstance(variants, Mapping)
        or not variants
        or not all(
            isinstance(name, str) and name and isinstance(options, Mapping)
            for name, options in variants.items()
        )
    ):
        raise SpecError(
            'ablation variants must be a dict of names to option '
            f'dicts with at least one entry, got {variants!r}'
        )
    slugs: dict[str, str] = {}
    made: dict[str, str] = {}
    for name, options in variants.items():
        # Many disks do not tell capitals from small letters.
        other = slugs.setdefault(_slug(name).casefold(), name)
        if other != name:
            raise SpecError(
                f'variants {other!r} and {name!r} would share '
                f'the folder {_slug(name)!r}; rename one'
            )
        twin = made.setdefault(canonical(options), name)
        if twin != name:
            raise SpecError(
                f'variants {twin!r} and {name!r} have the same options; seeds repeat a variant'
            )


def canonical(value: Any) -> str:
    """Equal for equal options, whatever the order of their keys."""
    if isinstance(value, Mapping):
        return repr(sorted((str(k), canonical(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return repr([type(value).__name__, *map(canonical, value)])
    return repr(value)


def _slug(name: str) -> str:
    return _UNSAFE.sub('_', name).strip('_.') or '_'
