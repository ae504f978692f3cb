"""``{command-options} NAME`` and ``{command-list}``: options as the parsers have them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mmpretrain_mobileone_ext.commands.console.table import COMMANDS

_HEAD = ('| option | what it means |', '|---|---|')


def rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One row an option, in Markdown, as ``--help`` has them."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        words = formatter._expand_help(action) if action.help else ''
        name = formatter._format_action_invocation(action)
        yield f'| `{_cell(name)}` | {_cell(_escaped(words))} |'


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', r'\|')


def _escaped(text: str) -> str:
    for sign in '\\`*_<[':
        text = text.replace(sign, f'\\{sign}')
    return text


def table(name: str) -> list[str]:
    """The options of a command, in Markdown."""
    return [*_HEAD, *rows(COMMANDS[name].build_parser())]


class CommandOptions(SphinxDirective):
    """The options of one command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parsed(table(self.arguments[0]))

    def parsed(self, lines: Sequence[str]) -> list[nodes.Node]:
        """Nodes of Markdown."""
        node = nodes.container()
        source = StringList(list(lines), 'command-options')
        self.state.nested_parse(source, self.content_offset, node, match_titles=True)
        return node.children


class CommandList(CommandOptions):
    """All commands, a section each."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for command in COMMANDS.values():
            head = f'{command.summary[0].upper()}{command.summary[1:]}'
            lines += [f'**`mobileone-ext {command.name}`**: {head}', '', *table(command.name), '']
        return self.parsed(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive('command-options', CommandOptions)
    app.add_directive('command-list', CommandList)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
