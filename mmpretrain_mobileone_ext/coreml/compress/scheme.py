"""Named compressions: all there are, what they may cost, what they store."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ...errors import ExportError
from ...utils.accuracy import is_sensitive
from .activations import W8A8
from .given import Trained
from .storage import DENSE, Int4, Int8, Joint, Palette, Scheme, Sparse, Storage
from .weights import Weight

#: Every kind of scheme; a new one needs a row here and nothing else.
KINDS: tuple[type[Scheme], ...] = (Int8, Int4, Palette, Sparse, Joint, W8A8, Trained)
#: The schemes that have a place in help texts and in every search. In 'joint' 40 % of the weights
#: are zero and are not stored, the others have an index of 6 bits. The mask has one bit for each
#: weight, and pays as soon as a sixth of them is zero.
NAMED: Mapping[str, Scheme] = {
    'int8': Int8(),
    'int4': Int4(),
    'palettize8': Palette(8),
    'palettize6': Palette(6),
    'palettize4': Palette(4),
    'palettize2': Palette(2),
    'prune50': Sparse(50),
    'prune75': Sparse(75),
    'joint': Joint(Sparse(40), Palette(6)),
    'w8a8': W8A8(),
}
SCHEMES = tuple(NAMED)
_DIGITS = re.compile('[0-9]+')
AUTO = 'auto'
_STORAGES = [kind for kind in KINDS if issubclass(kind, Storage)]
#: Ways to store a weight that a search considers.
SEARCHED = (DENSE, *(storage for kind in _STORAGES for storage in kind.searched()))
#: ``constexpr`` operation to what people call a weight that it holds.
WORDS = {operation: words for kind in _STORAGES for operation, words in kind.words.items()}


@dataclass(frozen=True)
class DropTolerance:
    """What a scheme may cost.

    Attributes:
        name: quoted in messages and metadata.
        max_drop: percentage points of top-1 on labelled images; of top-1 agreement with the network
            without labels.
        from_user: the number was given, and is taken as it is; otherwise one image may always
            differ, as it can be a tie.
    """

    name: str
    max_drop: float
    from_user: bool = False

    def allowed(self, images: int) -> float:
        """Percentage points allowed on so many images."""
        return self.max_drop if self.from_user else max(self.max_drop, 100 / images)

    def failure(self, drop: float, images: int) -> Optional[str]:
        """Why ``drop`` (percentage points on ``images``) is too much."""
        if drop <= self.allowed(images) + 1e-9:
            return None
        return (
            f'top-1 drops by {drop:.2f} points on {images} images; allowed: '
            f'{self.allowed(images):.2f} (tolerance {self.name!r})'
        )


def tolerance_for(scheme: str, max_drop: Optional[float] = None) -> DropTolerance:
    """The bound of a scheme, or ``max_drop`` points where they are given.

    int8 and palettize8 0.2, palettize6 0.5, int4 and palettize4 1.0, palettize3 2.0, palettize2
    3.0, palettize1 5.0, w8a8 0.5 points; pruning 1.0 more up to 50 %, 2.0 beyond.

    Args:
        scheme: a fixed scheme or 'auto'.

    Raises:
        ExportError: no such scheme, 'auto' without ``max_drop``, or a number that is none of 0 to
            100.
    """
    if max_drop is not None:
        if not 0 <= max_drop <= 100:
            raise ExportError(
                f'max_drop is {max_drop}; allowed: percentage points of top-1, 0 to 100'
            )
        return DropTolerance(f'max-drop {max_drop:g}', float(max_drop), from_user=True)
    if scheme == AUTO:
        raise ExportError(
            "compress 'auto' needs max_drop: the percentage points of top-1 that it may cost"
        )
    return DropTolerance(f'compress-{scheme}', fixed_scheme(scheme).max_drop)


def fixed_scheme(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        ExportError: no such scheme.
    """
    every = (NAMED.get(name), *(kind.named(name) for kind in KINDS))
    found = next((scheme for scheme in every if scheme is not None), None)
    if found is None:
        families = (kind.spelling for kind in KINDS if kind.spelling)
        raise ExportError(
            f'compress is {name!r}{_meant(name)}; '
            f'allowed: none, {", ".join((*SCHEMES, AUTO, *families))}'
        )
    return found


def _meant(name: str) -> str:
    """The scheme whose letters are misspelt in ``name``; a number is listed, not guessed."""
    letters, digits = _DIGITS.sub('', name), ''.join(_DIGITS.findall(name))
    families = {_DIGITS.sub('', known) for known in ('none', *SCHEMES, AUTO)}
    near = difflib.get_close_matches(letters.lower(), families, 1)
    wanted = [n for n in ('none', AUTO, *SCHEMES) if n == f'{near[0]}{digits}'] if near else []
    return f'; did you mean {wanted[0]}?' if wanted and letters != near[0] else ''


def check_scheme(name: str, target: str, format: str) -> None:
    """Refuse a scheme that a file of this target and format cannot hold.

    Args:
        name: 'none', 'auto' or a fixed scheme.
        target: deployment target, 'iOS15' to 'iOS26'.
        format: 'mlprogram' or 'neuralnetwork'.

    Raises:
        ExportError: unknown, or too new: says which iOS it needs and why.
    """
    if name == 'none':
        return
    # A search needs what the simplest scheme needs.
    scheme = Int8() if name == AUTO else fixed_scheme(name)
    if format == 'neuralnetwork':
        auto = 'auto chooses a form for each weight of an mlprogram'
        reason = auto if name == AUTO else scheme.no_network
        if reason:
            raise ExportError(
                f'compress {name!r} needs an .mlpackage: {reason}; '
                'allowed for a .mlmodel: int8, palettize<bits>'
            )
    elif target < scheme.oldest:
        raise ExportError(
            f'compress {name!r} needs a deployment target of {scheme.oldest} or '
            f'later, the first that reads {scheme.reads}; it is {target}'
        )


def storage_for(wanted: Storage, role: str, depthwise: bool, count: int) -> Storage:
    """What a scheme that stores large weights as ``wanted`` stores one weight as.

    Sensitive layers (see :func:`~...utils.accuracy.is_sensitive`) get int8 where that has fewer
    bits, and a scheme that only prunes leaves them alone. A classifier may hold half of a network's
    bytes; its table has 6 bits at least.

    Args:
        role: 'first', 'last' or ''.
        count: numbers in the weight.
    """
    return wanted.for_weight(is_sensitive(count, role == 'first', depthwise), role == 'last')


def plan_for(
    wanted: Storage,
    weights: Sequence[Weight],
    target: str,
    size: Callable[[Storage, np.ndarray, str], int] = Storage.size,
) -> dict[str, Storage]:
    """How every weight is stored under a fixed scheme, see :func:`storage_for`.

    A way that would not make a weight smaller is not used.

    Args:
        wanted: the scheme.
        weights: of a file.
        target: deployment target.
        size: bytes of a weight in files of the format.

    Returns:
        Operation name to storage; weights that stay dense are left out.
    """
    plan = {w.name: storage_for(wanted, w.role, w.depthwise, w.values.size) for w in weights}
    return {
        w.name: plan[w.name]
        for w in weights
        if size(plan[w.name], w.values, target) < size(DENSE, w.values, target)
    }
