"""The order of the house: floors, no circles, small folders, true recipes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmpretrain_mobileone_ext'
#: From bottom to top; a module imports from its own floor and from below.
FLOORS = (
    ('errors', 'registry'),
    ('utils',),
    ('models',),
    ('checkpoints',),
    ('coreml.program',),
    ('coreml.runtime', 'coreml.targets'),
    ('coreml.compress',),
    ('coreml.metadata',),
    ('coreml',),  # convert, formats, classifier
    ('coreml.swift',),
    ('coreai',),
    ('coreml.neural_engine',),
    ('export',),
    ('report',),
    ('exporter',),
    ('hooks',),
    ('',),
    ('commands',),
)
ENTRIES = 12
#: Where mmengine looks for a scope's registries: no choice of ours.
DEMANDED = {'registry.py'}


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name below the package, '' for the package itself, to its file."""
    found = {}
    for file in root.rglob('*.py'):
        parts = file.relative_to(root).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports, at any place in it."""
    folder = name.split('.') if file.stem == '__init__' else name.split('.')[:-1]
    folder = [part for part in folder if part]
    found = set()
    for node in ast.walk(ast.parse(file.read_text('utf-8'))):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or '').split('.')
            if node.level:
                module = [*folder[: len(folder) + 1 - node.level], *module]
            elif module[0] == PACKAGE.name:
                module = module[1:]
            else:
                continue
            base = '.'.join(part for part in module if part)
            for alias in node.names:
                deeper = f'{base}.{alias.name}'.lstrip('.')
                found.add(deeper if deeper in known else base)
        elif isinstance(node, ast.Import):
            names = [a.name.split('.') for a in node.names]
            found.update('.'.join(n[1:]) for n in names if n[0] == PACKAGE.name)
    return found - {name}


def floor(name: str) -> int:
    """The highest floor that is named for the module or a folder around it."""
    while True:
        for number, names in enumerate(FLOORS):
            if name in names:
                return number
        assert name, 'every module has a floor'
        name = name.rpartition('.')[0]


KNOWN = modules()
GRAPH = {name: imported(name, file, KNOWN) for name, file in KNOWN.items()}


def upward(graph: dict[str, set[str]]) -> list[str]:
    return sorted(
        f'{a or "__init__"} -> {b or "__init__"}'
        for a, others in graph.items()
        for b in others
        if floor(b) > floor(a)
    )


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves through others."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo.extend(new)
        return seen

    return sorted(name or '__init__' for name in graph if name in reached(name))


def test_every_top_level_name_has_its_own_floor():
    top = {name.split('.')[0] for name in KNOWN}
    assert top <= {n.split('.')[0] for names in FLOORS for n in names}


def test_what_is_imported_exists():
    assert {n for others in GRAPH.values() for n in others} <= set(KNOWN)


def test_imports_point_downward():
    assert upward(GRAPH) == []


def test_no_circle_among_files():
    assert circles(GRAPH) == []


def test_the_guard_sees_what_it_is_for(tmp_path):
    file = tmp_path / 'a.py'
    file.write_text(
        'from ..report import page\ndef f():\n    from mmpretrain_mobileone_ext.commands.cli '
        'import guarded\n    import mmpretrain_mobileone_ext.exporter\n'
    )
    known = {**KNOWN, 'coreml.a': file}
    graph = {**GRAPH, 'coreml.a': imported('coreml.a', file, known)}
    assert graph['coreml.a'] == {'report.page', 'commands.cli', 'exporter'}
    assert len(upward(graph)) == 3
    graph['errors'] = {'coreml.a'}
    assert 'coreml.a' in circles(graph)


def folders() -> list[Path]:
    return sorted({file.parent for file in KNOWN.values()})


@pytest.mark.parametrize('folder', folders(), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_folder_can_be_taken_in_at_a_glance(folder):
    entries = {
        file.relative_to(folder).parts[0]
        for file in folder.rglob('*')
        if file.is_file() and not any(p.startswith(('.', '__py')) for p in file.parts[-3:])
    }
    assert len(entries - DEMANDED) <= ENTRIES, entries


def test_recipes_name_files_that_exist():
    text = (ROOT / 'CONTRIBUTING.md').read_text('utf-8')
    named = re.findall(r'`([\w./-]+/[\w.-]*|[\w-]+\.(?:py|md|toml))`', text)
    assert len(named) > 20
    roots = (ROOT, PACKAGE, ROOT / 'tests')
    missing = [n for n in named if not any((root / n).exists() for root in roots)]
    assert missing == []
