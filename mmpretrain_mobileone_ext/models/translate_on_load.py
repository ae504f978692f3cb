"""Apple's and timm's names become ours while they are loaded."""
from __future__ import annotations

from mmengine.logging import print_log
from torch import nn

from ..foreign.keys import BACKBONE, MMPRETRAIN
from ..foreign.recognize import recognize, translate


def translate_incoming(module: nn.Module, state_dict: dict,
                       prefix: str) -> None:
    """Rename weights of Apple or timm in place; leave all others alone.

    A network whose names have ``backbone.`` in them gets the head too; a
    backbone alone has no place for it. What was recognized is logged.

    Args:
        module: a classifier with a ``backbone``, or the backbone.
        state_dict: the module's keys start with ``prefix``.
    """
    given = {
        k[len(prefix):]: v
        for k, v in state_dict.items() if k.startswith(prefix)
    }
    found = recognize(given)
    if found is None:
        return
    whole = hasattr(module, 'backbone')
    renamed = translate(given, found, MMPRETRAIN if whole else BACKBONE)
    if not whole:
        renamed = {k: v for k, v in renamed.items()
                   if not k.startswith('head.fc.')}
    for name in given:
        del state_dict[prefix + name]
    state_dict.update({prefix + k: v for k, v in renamed.items()})
    dropped = ', its head left out' if found.has_head and not whole else ''
    print_log(
        f'{type(module).__name__} loads weights of {found.summary}'
        f'{dropped}', 'current')
