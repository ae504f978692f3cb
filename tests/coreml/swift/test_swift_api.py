"""What generated packages call is documented, declared and old enough."""

import re

import pytest
from apple_api import APPLE, PORTABLE, STUBS
from swift_kit import external, names, sources, tree, walk

NEWER = {name: api for name, api in APPLE.items() if api.ios}


@pytest.fixture(scope='module')
def used(packages):
    return {kind: external(package) for kind, package in packages.items()}


def test_every_row_of_the_table_is_read():
    rows = (STUBS / 'api.md').read_text().count('\n| `')
    assert len(APPLE) == rows > 150
    assert set(NEWER) >= {'MLComputePlan', 'cpuAndNeuralEngine'}
    assert all(bool(a.ios) == bool(a.macos) for a in APPLE.values())


def test_nothing_else_is_called(used):
    for kind, found in used.items():
        assert found - set(APPLE) - PORTABLE == set(), kind


def test_nothing_is_listed_in_vain(packages, used):
    text = '\n'.join(f.read_text() for f in sources(packages['rgb']))
    words = set(re.findall(r'\w+', text))
    assert {n for n in APPLE if ' ' not in n} - words == set()
    assert all(n in text for n in APPLE if ' ' in n)
    assert PORTABLE - set().union(*used.values()) == set()
    assert set(APPLE) & PORTABLE == set()


def test_the_compiler_of_linux_knows_the_same_declarations():
    declared, _ = names(STUBS.glob('*.swift'))
    foundation = {'CGRect'}
    wanted = {n.split('.')[-1] for n in APPLE} - foundation
    text = '\n'.join(f.read_text() for f in STUBS.glob('*.swift'))
    missing = {
        n
        for n in wanted - declared
        if not re.search(rf'\b(let|var|case|func|struct) .*\b{n}\b', text)
    }
    assert missing == set()


def versions(text):
    return tuple(map(int, text.split('.')))


def is_guarded(node, api):
    """Inside ``if #available`` or ``@available`` with new enough systems."""
    while node is not None:
        text = node.text.decode()
        found = ''
        if node.type == 'if_statement':
            found = text[: text.index('{')]
        elif node.type == 'function_declaration':
            found = text[: text.index('func')]
        match = re.search(r'available\(iOS ([\d.]+), macOS ([\d.]+), \*\)', found)
        if (
            match
            and versions(match[1]) >= versions(api.ios)
            and versions(match[2]) >= versions(api.macos)
        ):
            return True
        node = node.parent
    return False


def unguarded(text, name):
    """Lines that use a name from the ``APPLE`` list without a check."""
    api, root = NEWER[name], tree(text).root_node
    word = name.split('.')[-1]
    found = []
    for node in walk(root):
        if node.type not in ('simple_identifier', 'type_identifier') or node.text.decode() != word:
            continue
        line = text.splitlines()[node.start_point[0]]
        if ' ' in name and name not in line:
            continue
        if not is_guarded(node, api):
            found.append(line.strip())
    return found


#: Cases of the package's own enum of the same name.
OWN = {'cpuAndNeuralEngine': ['case cpuAndNeuralEngine', 'case .cpuAndNeuralEngine:']}


@pytest.mark.parametrize('name', NEWER)
def test_newer_api_is_behind_a_check(packages, name):
    lines, uses = [], 0
    for file in sources(packages['rgb']):
        text = file.read_text()
        uses += name in text
        lines += unguarded(text, name)
    assert uses
    assert lines == OWN.get(name, [])


def test_a_missing_check_is_noticed(packages):
    file = next(packages['rgb'].rglob('ComputePlanCounts.swift'))
    text = file.read_text()
    assert unguarded(text, 'MLComputePlan') == []
    older = text.replace('iOS 17.4', 'iOS 17.0')
    assert len(unguarded(older, 'MLComputePlan')) > 1
    bare = text.replace('@available(iOS 17.4, macOS 14.4, *)', '')
    assert unguarded(bare, 'Block')
