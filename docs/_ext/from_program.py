"""What pages say of the program, in Markdown: options, schemes, operations and messages."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.commands.benchmark.quantization.options import METHODS
from mmpretrain_mobileone_ext.commands.console.table import COMMANDS
from mmpretrain_mobileone_ext.coreml.compress.scheme import AUTO, fixed_scheme
from mmpretrain_mobileone_ext.coreml.compress.storage import Scheme
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, Op
from mmpretrain_mobileone_ext.coreml.targets import DEFAULT_TARGET
from mmpretrain_mobileone_ext.utils.accuracy import DEFAULT_DROP, wilson

PACKAGE = Path(__file__).resolve().parents[2] / 'mmpretrain_mobileone_ext'
#: Functions that take a message and make the error.
_MAKERS = ('refused', 'damaged')
_GIVEN = '…'
_OPTIONS = '| option | what it means |\n|---|---|'
_SCHEMES = (
    '| scheme | how weights are stored | oldest system | may cost, points |\n|---|---|---|---:|'
)
#: Of kinds that have many, some; 'prune50' and 'prune75' stand for all up to 50 % and beyond.
_SHOWN_SCHEMES = (
    *('int8', 'int4'),
    *(f'palettize{bits}' for bits in (8, 6, 4, 3, 2, 1)),
    *('prune50', 'prune75', 'prune50+int8', 'prune50+palettize4', 'joint', 'w8a8', 'trained'),
)
_METHODS = '| method | what it is |\n|---|---|'
_CHIPS = (
    '| chip | sums of products from 32768 on are infinite | denormal sums of products are 0 '
    '| above 4094 infinite in slices within a row |\n'
    '|---|---|---|---|'
)
_OPERATIONS = '| operation | parameters | what it computes |\n|---|---|---|'


# Options, as the parsers have them.


def options(name: str) -> str:
    """A table of the options of a command."""
    return '\n'.join([_OPTIONS, *_option_rows(COMMANDS[name].build_parser()), ''])


def commands() -> str:
    """All commands, with their options."""
    return '\n'.join(
        f'**`mobileone-ext {command.name}`**: '
        f'{command.summary[0].upper()}{command.summary[1:]}\n\n{options(command.name)}'
        for command in COMMANDS.values()
    )


def _option_rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        words = formatter._expand_help(action) if action.help else ''
        if isinstance(action, argparse.BooleanOptionalAction):
            # Which Python before 3.13 adds by itself.
            words = re.sub(r' \(default: (True|False)\)$', '', words)
        yield f'| `{_cell(_option_name(action, formatter))}` | {_cell(_escaped(words))} |'


def _option_name(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """Names and value, the same from every Python."""
    names = ', '.join(action.option_strings)
    if action.nargs == 0:
        return names
    default = formatter._get_default_metavar_for_optional(action) if names else action.dest
    return f'{names} {formatter._format_args(action, default)}'.strip()


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', r'\|')


def _escaped(text: str) -> str:
    for sign in '\\`*_<[':
        text = text.replace(sign, f'\\{sign}')
    return text


# Ways to store weights, by their classes.


def schemes() -> str:
    """Every kind of scheme: what it stores, what reads it, what it may cost."""
    rows = []
    for name in _SHOWN_SCHEMES:
        scheme = fixed_scheme(name)
        words = (inspect.getdoc(type(scheme)) or '').partition('\n\n')[0]
        system = scheme.oldest.replace('iOS', 'iOS ')
        rows.append(f'| `{name}` | {_cell(words)} | {system} | {_bound(scheme)} |')
    rows.append(
        f'| `{AUTO}` | Each layer in the way that suits it. | that of the target | '
        f'{DEFAULT_DROP:.1f} |'
    )
    return '\n'.join([_SCHEMES, *rows, ''])


def _bound(scheme: Scheme) -> str:
    steps = getattr(scheme, 'max_drop_with_steps', None)
    more = f'; {steps:.1f} with rounded activations' if steps else ''
    return f'{scheme.max_drop:.1f}{more}'


def methods() -> str:
    """Ways to a quantized file that ``benchmark-quantization`` compares."""
    rows = [f'| `{name}` | {_cell(words)} |' for name, words in METHODS.items()]
    return '\n'.join([_METHODS, *rows, ''])


# What a fine-tuning is.


@functools.cache
def _config(name: str) -> Config:
    return Config.fromfile(PACKAGE.parent / 'configs' / name)


@functools.cache
def weights() -> str:
    """'22 MB': the branches of S0, float32."""
    with torch.device('meta'):
        model = MODELS.build(_config('mobileone/mobileone-ext-s0_8xb32_in1k.py').model)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return f'{size / 1e6:.0f} MB'


def finetune_plan() -> str:
    """'20 epochs with ...': length, rate and batches of the recipe."""
    cfg = _config('finetune/mobileone-s0_finetune_image-folder.py')
    return (
        f'{cfg.train_cfg.max_epochs} epochs in batches of {cfg.train_dataloader.batch_size}, with '
        f'a learning rate of {cfg.optim_wrapper.optimizer.lr:g} and ten times as much for the head'
    )


def default_target() -> str:
    """'iOS 16': the oldest system that files are for."""
    return DEFAULT_TARGET.replace('iOS', 'iOS ')


def sixty_photos() -> str:
    """'79.9 to 95.3': what a top-1 of 90 % on 60 photos says."""
    return ' to '.join(f'{100 * end:.1f}' for end in wilson(54, 60))


# Operations of the reference runtime, by its registry.


def themes() -> dict[str, list[str]]:
    """Names of operations by the file that implements them, all sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(OPS):
        theme = OPS[name].function.__module__.rpartition('.')[2]
        found.setdefault(theme, []).append(name)
    return dict(sorted(found.items()))


def operations() -> str:
    """A count, and one table a theme."""
    tables = [
        '\n'.join([f'**{theme}** ({len(names)})', '', _OPERATIONS, *map(_operation, names), ''])
        for theme, names in themes().items()
    ]
    return '\n'.join([f'{len(OPS)} operations are implemented.', '', *tables])


def _operation(name: str) -> str:
    op: Op = OPS[name]
    words = (inspect.getdoc(op.function) or '').partition('\n\n')[0]
    parameters = ', '.join(inspect.signature(op.function).parameters)
    return f'| `{name}` | `{parameters}` | {_cell(words)} |'


# Generations of the Neural Engine.


def chips() -> str:
    """What the runtime's arithmetic does by chip, and how each fact is known."""
    rows = [
        f'| {chip.name} | '
        + ' | '.join(f'{"yes" if fact.value else "no"} ({fact.label})' for fact in chip.numerics)
        + ' |'
        for chip in CHIPS.values()
        if chip.numerics
    ]
    return '\n'.join([_CHIPS, *rows, ''])


# Messages, by the source.


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


def messages() -> str:
    """A list for each module that raises some, all sorted."""
    known = errors() | set(_MAKERS)
    lists = []
    for file in sorted(PACKAGE.rglob('*.py')):
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text('utf-8')))
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in known and node.args
        ]
        lines = {' '.join(template(call.args[0]).split()) for call in calls}
        said = sorted(line for line in lines if re.search(r'\w{2}', line))
        if said:
            module = file.relative_to(PACKAGE).with_suffix('').as_posix()
            lists.append('\n'.join([f'**{module}**', '', '```text', *said, '```', '']))
    return '\n'.join(lists)
