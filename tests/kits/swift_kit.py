"""Parse Swift, and read what the files of a package declare."""

import re

import tree_sitter
import tree_sitter_swift

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
_NAMED = {'\\': '\\', '"': '"', 'n': '\n', 'r': '\r', 't': '\t', '0': '\0'}
_PIECE = re.compile(r'\\u\{([0-9A-F]{1,8})\}|\\(.)|([^\\"\n\r])', re.DOTALL)


def walk(node):
    """A node and everything below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def tree(text):
    return PARSER.parse(text.encode() if isinstance(text, str) else text)


def syntax_errors(text):
    """Line and text of everything that is no Swift."""
    return [
        (node.start_point[0] + 1, node.text.decode()[:60])
        for node in walk(tree(text).root_node)
        if node.is_error or node.is_missing
    ]


def read_literal(literal):
    """The value of a Swift string literal, after the language reference."""
    assert literal[0] == literal[-1] == '"'
    inside, at, value = literal[1:-1], 0, ''
    while at < len(inside):
        piece = _PIECE.match(inside, at)
        assert piece, f'no literal at {inside[at : at + 10]!r}'
        code, named, plain = piece.groups()
        assert named is None or named in _NAMED, f'no escape: {named!r}'
        value += chr(int(code, 16)) if code else _NAMED[named] if named else plain
        at = piece.end()
    return value


def sources(package):
    """Every Swift file of a package but its manifest."""
    folders = ('Sources', 'Tests', 'Example')
    return sorted(f for folder in folders for f in (package / folder).rglob('*.swift'))


def constants(text):
    """Name to source text of every ``let NAME = VALUE`` of a file."""
    found = {}
    for node in walk(tree(text).root_node):
        if node.type != 'property_declaration':
            continue
        name = node.child_by_field_name('name')
        value = node.child_by_field_name('value')
        if name is not None and value is not None:
            found[name.text.decode()] = value.text.decode()
    return found


def strings(text):
    """Values of the string literals in a piece of source."""
    return [
        read_literal(node.text.decode())
        for node in walk(tree(text).root_node)
        if node.type == 'line_string_literal'
    ]


#: Nodes of the syntax whose name is declared there.
DECLARES = {
    'class_declaration',
    'function_declaration',
    'parameter',
    'enum_entry',
    'init_declaration',
    'lambda_parameter',
    'pattern',
    'guard_statement',
    'protocol_declaration',
    'typealias_declaration',
    'if_statement',
    'value_binding_pattern',
    'protocol_property_declaration',
    'type_parameter',
}


def names(files):
    """Identifiers that files declare, and those that they only use."""
    declared, used = set(), set()
    for file in files:
        for node in walk(tree(file.read_bytes()).root_node):
            if node.type in ('simple_identifier', 'type_identifier'):
                declares = node.parent.type in DECLARES
                (declared if declares else used).add(node.text.decode())
    return declared, used


def external(package):
    declared, used = names(sources(package))
    targets = {f.relative_to(package).parts[1] for f in sources(package)}
    # The kernels, whose header is no Swift.
    header = next((package / 'Sources').glob('*Kernels/include/*.h'))
    targets.add(header.parent.parent.name)
    declared |= set(re.findall(r'\b(?:pixel_|Pixel)\w+|\w+_of_c[br]', header.read_text()))
    return {name for name in used - declared - targets if name[0] != '$'}
