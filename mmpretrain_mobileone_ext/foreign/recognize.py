"""Tell whose weights a state dict holds, by its keys."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .keys import APPLE, BACKBONE, MMPRETRAIN, TIMM, Layout

#: What wrappers and other frameworks put before a network's keys.
_WRAPPERS = re.compile(
    r'(?:(?:module|model|state_dict|state_dict_ema|timm_model)\.)*')
#: Under these a file may hold its state dict; timm's own order: the
#: averaged weights are the ones that its scores were measured with.
_CONTAINERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')


@dataclass(frozen=True)
class Recognized:
    """Whose keys they are, in which form, and what precedes each of them."""
    layout: Layout
    prefix: str
    folded: bool
    has_head: bool

    @property
    def summary(self) -> str:
        """One line for a log."""
        form = 'folded' if self.folded else 'branches'
        head = 'with head' if self.has_head else 'without head'
        after = f', keys after {self.prefix!r}' if self.prefix else ''
        return f'{self.layout.name} MobileOne ({form}, {head}{after})'


def recognize(names: Iterable[str],
              layouts: Iterable[Layout] = (TIMM, APPLE)
              ) -> Optional[Recognized]:
    """Whose keys these are; None if no layout knows any unit among them.

    Args:
        names: keys of a state dict.
        layouts: those that are looked for, the most specific first.
    """
    names = list(names)
    for layout in layouts:
        found = _in_layout(names, layout)
        if found is not None:
            return found
    return None


def recognize_any(names: Iterable[str]) -> Optional[Recognized]:
    """As :func:`recognize`, our own keys included."""
    return recognize(names, (TIMM, APPLE, MMPRETRAIN, BACKBONE))


def _in_layout(names: list[str], layout: Layout) -> Optional[Recognized]:
    for name in names:
        prefix = _WRAPPERS.match(name).group()  # type: ignore[union-attr]
        at = layout.read(name[len(prefix):])
        if at is not None and at.part >= 0:
            inside = [n[len(prefix):] for n in names if n.startswith(prefix)]
            return Recognized(
                layout, prefix,
                any('reparam' in n for n in inside),
                any(n.startswith(f'{layout.head}.') for n in inside))
    return None


def translate(state: Mapping[str, Any], found: Recognized,
              target: Layout) -> dict[str, Any]:
    """The state dict under the target's names, in the same order.

    Names that the layout does not know stay as they are, so that whoever
    loads them can refuse them.

    Args:
        state: weights by name; values are not looked at.
        found: whose names they are.
        target: whose names they get.
    """
    renamed = {}
    for name, value in state.items():
        at = (found.layout.read(name[len(found.prefix):])
              if name.startswith(found.prefix) else None)
        renamed[name if at is None else target.write(at)] = value
    return renamed


def unpack(loaded: Any) -> tuple[str, Any]:
    """The state dict in a checkpoint's dict, and the key that held it.

    ``''`` and the dict itself where no key of those in use holds a dict.
    mmengine's ``state_dict`` stays where it is, EMA beside it included.
    """
    for key in _CONTAINERS:
        if isinstance(loaded.get(key), Mapping):
            return key, loaded[key]
    return '', loaded
