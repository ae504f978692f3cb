"""``{message-list}``: every error message in the package's source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).resolve().parents[2] / 'mmpretrain_mobileone_ext'
#: Functions that take a message and make the error.
_MAKERS = ('refused', 'damaged')
_GIVEN = '…'


def errors() -> frozenset[str]:
    """Names of the package's exceptions."""
    tree = ast.parse((PACKAGE / 'errors.py').read_text('utf-8'))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef))


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts of a module that are no docstrings, what is computed replaced by an ellipsis."""
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in joined for part in node.values}
    for node in ast.walk(tree):
        if id(node) not in inside and template(node):
            yield template(node)


def template(node: ast.AST) -> str:
    """A text as its reader sees it; '' for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(template(part) or _GIVEN for part in node.values)
    return ''


def messages() -> dict[str, list[str]]:
    """Messages by the module that raises them, both sorted."""
    known, found = errors() | set(_MAKERS), {}
    for file in sorted(PACKAGE.rglob('*.py')):
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text('utf-8')))
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in known and node.args
        ]
        lines = {' '.join(template(call.args[0]).split()) for call in calls}
        said = sorted(line for line in lines if re.search(r'\w{2}', line))
        if said:
            found[file.relative_to(PACKAGE).with_suffix('').as_posix()] = said
    return found


def lines() -> Iterator[str]:
    """Markdown: a list for each module."""
    for module, said in messages().items():
        yield from (f'**{module}**', '', '```text', *said, '```', '')


class MessageList(SphinxDirective):
    """Puts the lists where it stands."""

    def run(self) -> list[nodes.Node]:
        node = nodes.container()
        self.state.nested_parse(StringList(list(lines()), 'messages'), self.content_offset, node)
        return node.children


class Changelog(SphinxDirective):
    """Puts the clone's CHANGELOG.md there, without its title."""

    def run(self) -> list[nodes.Node]:
        file = PACKAGE.parent / 'CHANGELOG.md'
        self.env.note_dependency(str(file))
        text = file.read_text('utf-8') if file.is_file() else 'There is no release yet.'
        body = text.split('\n', 1)[1] if text.startswith('# ') else text
        node = nodes.Element()
        source = StringList(body.splitlines(), str(file))
        self.state.nested_parse(source, self.content_offset, node, match_titles=True)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive('message-list', MessageList)
    app.add_directive('changelog', Changelog)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
