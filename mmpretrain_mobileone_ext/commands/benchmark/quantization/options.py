"""What ``benchmark-quantization`` can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

from ....errors import SpecError
from ....utils.files import MIM
from ...cli import check_fields, option

RECIPE = MIM / 'configs/quantization/mobileone-k4_bs128_fashion-mnist.py'


class Bits(NamedTuple):
    """What a file holds.

    Attributes:
        weights: bits.
        activations: bits; None: as they are.
        rounded_after: the exporter's scheme that makes it of a float network, if there is one.
    """

    weights: int
    activations: Optional[int]
    rounded_after: Optional[str]


SCHEMES: Mapping[str, Bits] = {
    'w8': Bits(8, None, 'int8'),
    'w8a8': Bits(8, 8, 'w8a8'),
    'w4': Bits(4, None, 'int4'),
    'w4a8': Bits(4, 8, None),
}
#: Ways to a file, in words; all train equally long.
METHODS: Mapping[str, str] = {
    'float': 'float',
    'after': 'float, rounded afterwards',
    'folded': 'float for half of the epochs, folded, then rounded by coreai-opt',
    'late': 'all branches, rounded for the last third',
    'branches': 'all branches, rounded from the start',
}


@dataclass(frozen=True)
class QuantizationOptions:
    """A checked request; the arguments of ``tools/benchmark_quantization.py``.

    Raises:
        SpecError: a value that cannot be run.
    """

    config: str = option(
        str(RECIPE),
        'float recipe of a ConfigurableMobileOne (default: four branches on 10 000 images of '
        'Fashion-MNIST)',
        metavar='CONFIG',
    )
    methods: tuple[str, ...] = option(
        tuple(METHODS), f'{", ".join(METHODS)} (default: all)', nargs='+', metavar='NAME'
    )
    schemes: tuple[str, ...] = option(
        tuple(SCHEMES), f'{", ".join(SCHEMES)} (default: all)', nargs='+', metavar='NAME'
    )
    seeds: tuple[int, ...] = option(
        (0, 1, 2), 'of the trainings (default: 0 1 2)', type=int, nargs='+', metavar='N'
    )
    epochs: int = option(0, "of each training; 0 for the recipe's", least=0)
    jobs: int = option(1, 'trainings, exports and tests at a time', least=1)
    out: Path = option(  # noqa: RUF009
        Path('work_dirs/benchmark-quantization'),
        'for all that is made; what is there is not made again (default: '
        'work_dirs/benchmark-quantization)',
        type=Path,
        metavar='DIR',
    )
    json: Optional[Path] = option(  # noqa: RUF009
        None, 'write every figure', type=Path, metavar='FILE'
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for name, given, allowed in (
            ('methods', self.methods, METHODS),
            ('schemes', self.schemes, SCHEMES),
        ):
            unknown = [one for one in given if one not in allowed]
            if unknown or len(set(given)) != len(given):
                raise SpecError(f'{name}={list(given)}; allowed: each of {", ".join(allowed)} once')
        if min(self.seeds) < 0 or len(set(self.seeds)) != len(self.seeds):
            raise SpecError(f'seeds={list(self.seeds)} must be different integers >= 0')
