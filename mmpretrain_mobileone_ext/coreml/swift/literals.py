"""Text as Swift string literals."""
from __future__ import annotations

_NAMED = {'\\': '\\\\', '"': '\\"', '\n': '\\n', '\r': '\\r', '\t': '\\t',
          '\0': '\\0'}


def string_literal(text: str) -> str:
    r"""A Swift string literal, quotes included, whose value is ``text``.

    Quotes, backslashes (and with them interpolation) and whatever is not
    printable are escaped; other characters stay as they are.

    Raises:
        ValueError: a lone surrogate, which no Swift string holds.
    """
    return '"' + ''.join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if 0xD800 <= ord(character) <= 0xDFFF:
        raise ValueError(f'U+{ord(character):04X} is half of a surrogate '
                         'pair and no character')
    if character == ' ' or character.isprintable():
        return character
    return f'\\u{{{ord(character):X}}}'
