"""``{op-table}``: the operations of the reference runtime, read from its registry."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, Op

_HEAD = '| operation | parameters | what it computes |\n|---|---|---|'


def themes() -> dict[str, list[str]]:
    """Names of operations by the file that implements them, all sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(OPS):
        theme = OPS[name].function.__module__.rpartition('.')[2]
        found.setdefault(theme, []).append(name)
    return dict(sorted(found.items()))


def row(name: str, op: Op) -> str:
    """One line of the table, in Markdown."""
    words = (inspect.getdoc(op.function) or '').partition('\n\n')[0]
    parameters = ', '.join(inspect.signature(op.function).parameters)
    cells = (f'`{name}`', f'`{parameters}`', ' '.join(words.split()).replace('|', r'\|'))
    return f'| {" | ".join(cells)} |'


def lines() -> Iterator[str]:
    """Markdown: a count, and one table a theme."""
    yield f'{len(OPS)} operations are implemented.'
    for theme, names in themes().items():
        table = '\n'.join([_HEAD, *(row(name, OPS[name]) for name in names)])
        yield from ('', f'**{theme}** ({len(names)})', '', *table.split('\n'))


class OpTable(SphinxDirective):
    """Puts the tables where it stands."""

    def run(self) -> list[nodes.Node]:
        node = nodes.container()
        self.state.nested_parse(StringList(list(lines()), 'op-table'), self.content_offset, node)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('op-table', OpTable)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
