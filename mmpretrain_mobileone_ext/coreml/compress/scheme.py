"""Named compressions: what they may cost, who reads them, what they store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from ...errors import ExportError
from .coding import DENSE, INT8, Form, Weight, parse_form, stored_bytes

W8A8 = 'w8a8'
#: Fixed schemes. Any 'palettize<bits>', 'prune<percent>', 'prune<percent>+
#: int8' and 'prune<percent>+palettize<bits>' is one, too.
SCHEMES = (
    'int8',
    'palettize8',
    'palettize6',
    'palettize4',
    'palettize2',
    'prune50',
    'prune75',
    'joint',
    W8A8,
)
#: 'joint' is short for this one: 40 % of the weights are zero and are not
#: stored, the others have an index of 6 bits. The mask has one bit for each
#: weight, and pays as soon as a sixth of them is zero.
JOINT = 'prune40+palettize6'
#: coremltools' own default: smaller weights are hardly worth few bits.
SMALL = 2048

#: Points of top-1 that each form may cost and still be worth shipping. Few
#: bits and much sparsity usually need training, and are then refused.
_MAX_DROP = {
    'int8': 0.2,
    'palettize8': 0.2,
    'palettize6': 0.5,
    'palettize4': 1.0,
    'palettize3': 2.0,
    'palettize2': 3.0,
    'palettize1': 5.0,
}
_W8A8_DROP = 0.5
#: Why a form needs the iOS that it needs.
_READS = {
    'iOS16': 'compressed weights of an mlprogram',
    'iOS17': 'quantized activations',
    'iOS18': 'tables of 3 bits, and sparse weights with a table or integers',
}


@dataclass(frozen=True)
class DropTolerance:
    """What a scheme may cost.

    Attributes:
        name: quoted in messages and metadata.
        max_drop: percentage points of top-1 on labelled images; of top-1
            agreement with the network without labels.
        from_user: the number was given, and is taken as it is; otherwise
            one image may always differ, as it can be a tie.
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
            f'top-1 drops by {drop:.2f} points on {images} images; '
            f'allowed: {self.allowed(images):.2f} '
            f'(tolerance {self.name!r})'
        )


def tolerance_for(scheme: str, max_drop: Optional[float] = None) -> DropTolerance:
    """The bound of a scheme, or ``max_drop`` points where they are given.

    int8 and palettize8 0.2, palettize6 0.5, palettize4 1.0, palettize3 2.0,
    palettize2 3.0, palettize1 5.0, w8a8 0.5 points; pruning 1.0 more up to
    50 %, 2.0 beyond.

    Args:
        scheme: a fixed scheme or 'auto'.

    Raises:
        ExportError: no such scheme, 'auto' without ``max_drop``, or a
            number that is none of 0 to 100.
    """
    if max_drop is not None:
        if not 0 <= max_drop <= 100:
            raise ExportError(
                f'max_drop is {max_drop}; allowed: percentage points of top-1, 0 to 100'
            )
        return DropTolerance(f'max-drop {max_drop:g}', float(max_drop), from_user=True)
    if scheme == 'auto':
        raise ExportError(
            "compress 'auto' needs max_drop: the percentage points of top-1 that it may cost"
        )
    if scheme == W8A8:
        return DropTolerance(f'compress-{scheme}', _W8A8_DROP)
    form = scheme_form(scheme)
    points = _MAX_DROP.get(Form(form.code, form.bits).name, 0.0)
    points += 0.0 if not form.pruned else 1.0 if form.pruned <= 50 else 2.0
    return DropTolerance(f'compress-{scheme}', points)


def scheme_form(scheme: str) -> Form:
    """The form that a scheme gives to large weights.

    Raises:
        ExportError: no such scheme.
    """
    try:
        form = parse_form(JOINT if scheme == 'joint' else scheme)
    except ExportError:
        form = DENSE
    if form == DENSE:
        raise ExportError(
            f'compress is {scheme!r}; allowed: none, {", ".join(SCHEMES)}, '
            'auto, palettize<bits>, prune<percent>, prune<percent>+int8, '
            'prune<percent>+palettize<bits>'
        )
    return form


def check_scheme(name: str, target: str, format: str) -> None:
    """Refuse a scheme that a file of this target and format cannot hold.

    Args:
        name: 'none', 'auto' or a fixed scheme.
        target: deployment target, 'iOS15' to 'iOS18'.
        format: 'mlprogram' or 'neuralnetwork'.

    Raises:
        ExportError: unknown, or too new: says which iOS it needs and why.
    """
    if name == 'none':
        return
    form = None if name in ('auto', W8A8) else scheme_form(name)
    if format == 'neuralnetwork':
        _check_network(name, form)
        return
    needed = 'iOS17' if name == W8A8 else form.oldest if form else 'iOS16'
    if target < needed:
        raise ExportError(
            f'compress {name!r} needs a deployment target of {needed} or '
            f'later, the first that reads {_READS[needed]}; it is {target}'
        )


def _check_network(name: str, form: Optional[Form]) -> None:
    why = {
        'auto': 'auto chooses a form for each weight of an mlprogram',
        W8A8: 'a .mlmodel has no quantized activations',
    }
    if form is None or form.pruned:
        reason = why.get(name, 'a .mlmodel has no sparse weights')
        raise ExportError(
            f'compress {name!r} needs an .mlpackage: {reason}; '
            'allowed for a .mlmodel: int8, palettize<bits>'
        )


def form_for(wanted: Form, role: str, depthwise: bool, count: int) -> Form:
    """What a scheme stores one weight as.

    Large weights get the scheme's own form, ``wanted``. The stem, depthwise
    layers and weights of fewer than 2048 numbers get int8 where that has
    fewer bits: they hold few bytes, nothing averages their errors out, and
    those of the stem reach everything behind it. For the same reason a
    scheme that only prunes leaves them alone. A classifier may hold half of
    a network's bytes; its table has 6 bits at least, as its errors reach
    the scores directly.

    Args:
        role: 'first', 'last' or ''.
        count: numbers in the weight.
    """
    if role == 'first' or depthwise or count < SMALL:
        return INT8 if wanted.code else DENSE
    if role == 'last' and wanted.code == 'table':
        return replace(wanted, bits=max(wanted.bits, 6))
    return wanted


def plan_for(scheme: str, weights: Sequence[Weight], target: str) -> dict[str, Form]:
    """The form of every weight under a fixed scheme, see :func:`form_for`.

    A form that would not make a weight smaller is not used.

    Returns:
        Operation name to form; weights that stay dense are left out.

    Raises:
        ExportError: no such scheme.
    """
    wanted = scheme_form(scheme)
    plan = {w.name: form_for(wanted, w.role, w.depthwise, w.values.size) for w in weights}
    return {w.name: plan[w.name] for w in weights if _smaller(plan[w.name], w, target)}


def _smaller(form: Form, weight: Weight, target: str) -> bool:
    size, dense = (
        stored_bytes(f, weight.shape, target, weight.values.dtype.itemsize) for f in (form, DENSE)
    )
    return size < dense
