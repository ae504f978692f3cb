"""What pages say of the Neural Engines, in Markdown: chips, limits and operations."""

from __future__ import annotations

from mmpretrain_mobileone_ext.coreml.neural_engine.matrix import OPERATIONS, look_up
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, LIMITS, MEASURED, Fact
from mmpretrain_mobileone_ext.utils.text import markdown_table

_NONE = '\u2013'
#: Macs with each generation of engines, and the names of both lines.
_FIRST = {'M1': 'M1, A13', 'M2': 'M2, A14', 'M3': 'M3, A15', 'M5': 'M4, M5, A16'}


def chips() -> str:
    """Every chip with its engine, and how that is known."""
    rows = [(c.name, c.engine, c.sureness, c.doubt or _NONE) for c in CHIPS.values()]
    return markdown_table(('chip', 'engine', 'known', 'doubt'), rows, 'llll')


def limits() -> str:
    """Every limit, by generation; a star marks what was measured."""
    shown = [CHIPS['A12'], *(CHIPS[name] for name in _FIRST)]
    rows = [
        (name, *(_limit(chip.limit(name)) for chip in shown), shown[1].limit(name).chapter)
        for name in LIMITS
    ]
    return markdown_table(('limit', 'A12', *_FIRST.values(), 'chapter'), rows, 'lrrrrrl')


def _limit(fact: Fact) -> str:
    if fact.value is None:
        return _NONE
    measured = ' (measured)' if fact.label == MEASURED else ''
    return f'{fact.value:,}'.replace(',', '\u2009') + measured


def operations() -> str:
    """Operations that not every engine takes: since which, and what to write instead."""
    rows = []
    for name in sorted(n for n in OPERATIONS if not n.startswith('const')):
        found = [look_up(name, CHIPS[chip]) for chip in _FIRST]
        if any(row.why for row in found):
            since = (line for line, row in zip(_FIRST.values(), found) if row.runs)
            rows.append((name, next(since, 'never'), found[0].why, found[0].instead or _NONE))
    heads = ('operation', 'on the engine since', 'why not', 'instead')
    return markdown_table(heads, rows, 'llll')
