"""Versions and specifiers, without the ``packaging`` library.

It may be missing or broken where the doctor is needed most.
"""
from __future__ import annotations

import operator
import re
from typing import Callable, Dict, Mapping, Tuple

_NUMBERS = re.compile(r'\s*v?(\d+(?:\.\d+)*)')
_CLAUSE = re.compile(r'\s*(===|==|~=|!=|<=|>=|<|>)\s*([^,\s]+)\s*$')
_NAME = re.compile(r'\s*([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?')
_COMPARE: Mapping[str, Callable] = {
    '==': operator.eq,
    '===': operator.eq,
    '!=': operator.ne,
    '<': operator.lt,
    '<=': operator.le,
    '>': operator.gt,
    '>=': operator.ge,
}


def numbers(version: str) -> Tuple[int, ...]:
    """``'2.14.1+cpu'`` -> ``(2, 14, 1)``; () for what is no version.

    What follows the numbers (rc1, +cpu, .dev0) is ignored, and so are zeros
    at the end.
    """
    found = _NUMBERS.match(version)
    if not found:
        return ()
    parts = [int(p) for p in found.group(1).split('.')]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def fits(version: str, specifier: str) -> bool:
    """Whether a version meets ``'>=2.0,<2.4'``; unknown clauses are met."""
    return all(_fits_one(version, clause)
               for clause in specifier.split(',') if clause.strip())


def _fits_one(version: str, clause: str) -> bool:
    found = _CLAUSE.match(clause)
    if not found:
        return True
    sign, wanted = found.groups()
    if sign == '~=':
        length = len(wanted.split('.')) - 1
        return numbers(version) >= numbers(wanted) and \
            numbers(version)[:length] == numbers(wanted)[:length]
    if wanted.endswith('.*'):
        start = numbers(wanted[:-2])
        return (numbers(version)[:len(start)] == start) == (sign == '==')
    return bool(_COMPARE[sign](numbers(version), numbers(wanted)))


def canonical(name: str) -> str:
    """``'mmcv_lite'`` -> ``'mmcv-lite'``."""
    return re.sub(r'[-_.]+', '-', name).lower()


def requirement(line: str) -> Tuple[str, str]:
    """``'torch (>=2.0); extra == "x"'`` -> ``('torch', '>=2.0')``."""
    found = _NAME.match(line)
    if not found:
        return '', ''
    return canonical(found.group(1)), found.group(2).replace(' ', '')


def read_matrix(text: str) -> Dict[str, str]:
    """A constraints file as package to specifier."""
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    return dict(requirement(line) for line in lines if line)
