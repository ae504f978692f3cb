"""How one weight of an ``mlprogram`` can be stored, and what it costs."""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ExportError

#: Entries of a table: 2 to the power of one of these. 3 bits need iOS 18.
TABLE_BITS = (8, 6, 4, 3, 2, 1)
_NAME = re.compile(r'^(?:prune(?P<pruned>\d{1,2}))?(?P<plus>\+)?'
                   r'(?P<code>int8|palettize(?P<bits>\d))?$')
_RECORD = 64  # bytes: MILBlob aligns every array and puts a record before it
_SMALLEST_GROUP = 8
_TABLE_SHARE = 16


@dataclass(frozen=True)
class Form:
    """One way to store a weight; all fields at rest: as it is.

    Attributes:
        code: '' (fp16 or fp32 values), 'int8' (scaled integers, a scale and
            a zero point for each output channel) or 'table' (k-means
            clusters and an index for each weight).
        bits: of a table's indices; 8 for int8; 0 without a code.
        pruned: percent of the weights, the smallest, that become zero and
            are not stored; 0 for none.
    """
    code: str = ''
    bits: int = 0
    pruned: int = 0

    @property
    def name(self) -> str:
        """'dense', 'int8', 'palettize4', 'prune50', 'prune50+int8', ..."""
        code = f'palettize{self.bits}' if self.code == 'table' else self.code
        pruned = f'prune{self.pruned}' if self.pruned else ''
        return '+'.join(part for part in (pruned, code) if part) or 'dense'

    @cached_property
    def oldest(self) -> str:
        """The oldest deployment target that reads this form."""
        joint = self.pruned > 0 and self.code != ''
        return 'iOS18' if joint or self.bits == 3 else 'iOS16'


DENSE = Form()
INT8 = Form('int8', 8)


def table(bits: int, pruned: int = 0) -> Form:
    """The form 'palettize<bits>', perhaps pruned."""
    return Form('table', bits, pruned)


def parse_form(name: str) -> Form:
    """The form of a name such as 'prune50+palettize4'.

    Raises:
        ExportError: the name is none.
    """
    found = _NAME.match(name)
    form = DENSE
    if found and name:
        form = Form('table' if found['bits'] else found['code'] or '',
                    int(found['bits'] or (8 if found['code'] else 0)),
                    int(found['pruned'] or 0))
    known = form.code != 'table' or form.bits in TABLE_BITS
    if form.name != name or not known:
        raise ExportError(
            f'weights cannot be stored as {name!r}; allowed: dense, int8, '
            f'palettize<bits> with bits of {", ".join(map(str, TABLE_BITS))}, '
            'prune<percent> with 1 to 99, and prune<percent>+int8 or '
            'prune<percent>+palettize<bits>')
    return form


def group_size(shape: tuple[int, ...], bits: int, target: str) -> int:
    """Output channels that share one table.

    Before iOS 18 a weight has one table. Since then it may have one for
    every group of channels, which follows channels of different range:
    small groups, but of at least 8 channels, and only while all tables
    together stay under 1/16 of the indices.

    Args:
        shape: of the weight, output channels first.
        bits: of an index.
        target: deployment target.

    Returns:
        A divisor of ``shape[0]``.
    """
    channels = shape[0]
    if target != 'iOS18':
        return channels
    indices = int(np.prod(shape)) * bits / 8
    most = max(1, int(indices / _TABLE_SHARE / (2 * 2**bits)))
    return min(size for size in range(1, channels + 1)
               if channels % size == 0 and (
                   size == channels or
                   (size >= _SMALLEST_GROUP and channels // size <= most)))


def stored_bytes(form: Form, shape: tuple[int, ...], target: str,
                 itemsize: int = 2) -> int:
    """Bytes of one weight in a package, table and bookkeeping included.

    Counted as MILBlob stores arrays: aligned to 64 bytes, each with a
    record of 64 bytes; plus what the operation adds to the specification,
    an average as measured. That makes small weights not worth some forms.

    Args:
        shape: of the weight, output channels first.
        itemsize: bytes of a weight as it is: 2 for fp16.
    """
    count, channels = int(np.prod(shape)), shape[0]
    kept = count - count * form.pruned // 100
    mask = [-(-count // 8)] if form.pruned else []
    if form.code == 'int8':
        arrays = [kept, channels * itemsize, channels]
    elif form.code == 'table':
        groups = channels // group_size(shape, form.bits, target)
        entries = groups * 2**form.bits
        arrays = [-(-kept * form.bits // 8)]
        # Arrays of fewer than 10 numbers stand in the specification.
        arrays += [entries * itemsize] if entries >= 10 else []
    else:
        arrays = [kept * itemsize]
    spec = _SPEC[form.code, form.pruned > 0]
    return spec + sum(_RECORD + -(-n // _RECORD) * _RECORD
                      for n in mask + arrays)


#: Code, pruned or not, to the bytes that coremltools' operation takes in the
#: specification beyond a constant; MobileOne's names are about 50 letters.
_SPEC = {
    ('', False): 0,
    ('int8', False): 200,
    ('table', False): 130,
    ('', True): 130,
    ('int8', True): 700,
    ('table', True): 660,
}
