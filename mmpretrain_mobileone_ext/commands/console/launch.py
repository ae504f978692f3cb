"""Start a command: parse its words, and only then import the package and what it needs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from ...errors import MobileOneExtError
from ...utils.files import MIM
from ...utils.text import print_path
from ...utils.version import __version__
from ..cli import ToolParser, guarded
from .table import COMMANDS, OURS, PROGRAM, Command


def launch(words: Sequence[str], register: Callable[[], Any], name: Optional[str] = None) -> int:
    """Run one command.

    Args:
        words: the command line, behind the program's name.
        register: imports the package; called when the words are known to be right.
        name: of the command, for a tool; None takes the first word.

    Returns:
        Exit code, as of :func:`~mmpretrain_mobileone_ext.commands.cli.guarded`.
    """
    chosen: list[Any] = []
    code = guarded(lambda: chosen.extend(_parse(list(words), name)))
    if code or not chosen:
        return code
    command, rest = chosen
    register()
    return _run(command, rest)


def _parse(words: list[str], name: Optional[str]) -> tuple[Command, list[str]]:
    """The command and its words; ends the program where help was asked for."""
    command, words = (COMMANDS[name], words) if name else _choose(words)
    if not name:
        sys.argv[0] = f'{PROGRAM} {command.name}'
    words = [_installed(word) for word in words]
    sys.argv[1:] = words
    parser = command.build_parser()
    if command.is_mmpretrains:
        parser.parse_known_args(words)
    else:
        parser.parse_args(words)
    return command, words


def _choose(words: list[str]) -> tuple[Command, list[str]]:
    parser = program_parser()
    if not words:
        parser.print_help()
        raise SystemExit(2)
    if words[0].startswith('-'):
        parser.parse_args(words)
    if words[0] in COMMANDS:
        return COMMANDS[words[0]], words[1:]
    near = difflib.get_close_matches(words[0], COMMANDS)
    meant = f'did you mean {" or ".join(near)}?' if near else f'they are {", ".join(COMMANDS)}'
    raise MobileOneExtError(f'{PROGRAM} has no command {words[0]!r}; {meant}')


def program_parser() -> ToolParser:
    """What ``mobileone-ext --help`` says; a command's own parser reads its words."""
    width = max(map(len, COMMANDS))
    listed = '\n'.join(f'  {c.name:<{width}}  {c.summary}' for c in COMMANDS.values())
    parser = ToolParser(
        prog=PROGRAM,
        usage=f'{PROGRAM} COMMAND ...',
        description='MobileOne for MMPretrain: train with many branches, fold, export to Core ML, '
        'verify.',
        epilog=f'commands:\n{listed}\n\n'
        f'{PROGRAM} COMMAND --help tells its options, with an example; examples of other commands '
        f'use\nwhat the demo leaves. A config of this package is named\n{OURS}FOLDER/NAME.py.\n\n'
        f'example:\n  {PROGRAM} demo',
    )
    parser.add_argument('--version', action='version', version=f'{PROGRAM} {__version__}')
    parser.add_argument('command', metavar='COMMAND', help='one of those below')
    return parser


def _installed(word: str) -> str:
    """The path of a config that is named as in ``_base_``; other words as they are."""
    if not word.startswith(OURS):
        return word
    path = MIM / 'configs' / word[len(OURS) :]
    if not path.is_file():
        raise MobileOneExtError(f'{word}: there is no such config; they are in {MIM / "configs"}')
    return str(path)


def _run(command: Command, words: list[str]) -> int:
    ended: list[int] = []

    def run() -> None:
        result = command(words)
        if isinstance(result, Path):
            print_path(result)
        if type(result) is int:
            ended.append(result)

    return guarded(run, command.stopped) or sum(ended)
