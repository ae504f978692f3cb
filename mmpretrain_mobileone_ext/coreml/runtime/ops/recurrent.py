"""MIL recurrent layers (``iOS15.recurrent``, ``iOS18.recurrent``).

A sequence is (s, b, I): length, batch, channels. What ``direction`` ``'reverse'`` returns is in the
order of computation, the last entry of the sequence first, as Core ML does it; a bidirectional
layer returns both directions in the order of the sequence, as torch does.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op
from .shared import choice

_Activation = Callable[[Tensor], Tensor]
_State = tuple[Tensor, ...]
#: What a step does: input part of the gates (b, G) and the old state.
_Cell = Callable[[Tensor, _State], _State]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


# With their default parameters: scaled_tanh is tanh. The documentation of rnn has another name for
# hard_sigmoid.
_ACTIVATIONS: dict[str, _Activation] = {
    'hard_sigmoid': _hard_sigmoid,
    'linear': lambda x: x,
    'relu': torch.relu,
    'scaled_tanh': torch.tanh,
    'sigmoid': torch.sigmoid,
    'sigmoid_hard': _hard_sigmoid,
    'tanh': torch.tanh,
}


class _Weights(NamedTuple):
    """Of one direction: (G, I), (G, H), (G) and, of an LSTM, (3 H)."""

    ih: Tensor
    hh: Tensor
    bias: Optional[Tensor] = None
    peephole: Optional[Tensor] = None


@op('lstm')
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Optional[Tensor] = None,
    peephole: Optional[Tensor] = None,
    weight_ih_back: Optional[Tensor] = None,
    weight_hh_back: Optional[Tensor] = None,
    bias_back: Optional[Tensor] = None,
    peephole_back: Optional[Tensor] = None,
    direction: str = 'forward',
    output_sequence: bool = False,
    recurrent_activation: str = 'sigmoid',
    cell_activation: str = 'tanh',
    activation: str = 'tanh',
    clip: Optional[float] = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; gates in the order i, f, o, z.

    Args:
        x (Tensor): (s, b, I).
        initial_h, initial_c (Tensor): (b, H), or (b, 2 H) for both directions.
        weight_ih, weight_hh (Tensor): (4 H, I) and (4 H, H).
        bias (Tensor | None): (4 H), the sum of both biases.
        peephole (Tensor | None): (3 H), weights of c in i, f and o.
        clip (float | None): Bound of ``|c|``.

    Returns:
        tuple: h of all steps (s, b, D H), or of the last (1, b, D H); and h
        and c of the last, (b, D H).

    Raises:
        ProgramError: If ``direction`` or an activation is unknown.
    """
    gates = _activation(recurrent_activation)
    inner, outer = _activation(cell_activation), _activation(activation)

    def cell(weights: _Weights) -> _Cell:
        peeps = (0, 0, 0) if weights.peephole is None else weights.peephole.chunk(3)

        def step(given: Tensor, state: _State) -> _State:
            h, c = state
            i, f, o, z = (given + h @ weights.hh.T).chunk(4, -1)
            c_new = gates(f + c * peeps[1]) * c + gates(i + c * peeps[0]) * inner(z)
            if clip is not None:
                c_new = c_new.clamp(-clip, clip)
            return gates(o + c_new * peeps[2]) * outer(c_new), c_new

        return step

    one = _Weights(weight_ih, weight_hh, bias, peephole)
    state: _State = (initial_h, initial_c)
    if direction != 'bidirectional':
        out, (h, c) = _run(x, one, cell(one), state, direction, output_sequence)
        return out, h, c
    if weight_ih_back is None or weight_hh_back is None:
        raise ProgramError('a bidirectional lstm has weights for both ways')
    other = _Weights(weight_ih_back, weight_hh_back, bias_back, peephole_back)
    start, start_back = zip(*(value.chunk(2, -1) for value in state))
    out, last = _run(x, one, cell(one), start, 'forward', output_sequence)
    back, last_back = _run(x, other, cell(other), start_back, 'reverse', output_sequence)
    h, c = (torch.cat(pair, -1) for pair in zip(last, last_back))
    return torch.cat([out, back.flip(0)], -1), h, c


@op('gru')
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Optional[Tensor] = None,
    direction: str = 'forward',
    output_sequence: bool = False,
    recurrent_activation: str = 'sigmoid',
    activation: str = 'tanh',
    reset_after: bool = False,
    input_bias: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit; gates in the order r, o, z.

    The documented formula does not say whether r multiplies h before or after the matrix product.
    Apple's own tests, which run on a device, do: before it, unless ``reset_after``, which is
    torch's way.

    Args:
        x (Tensor): (s, b, I).
        initial_h (Tensor): (b, H).
        weight_ih, weight_hh (Tensor): (3 H, I) and (3 H, H).
        bias (Tensor | None): (3 H); with ``reset_after``, r multiplies that of o, too.
        input_bias (Tensor | None): (3 H), never multiplied by r.

    Returns:
        tuple: h of all steps (s, b, H), or of the last (1, b, H); and h of
        the last, (b, H).

    Raises:
        ProgramError: If ``direction`` or an activation is unknown.
    """
    gates, outer = _activation(recurrent_activation), _activation(activation)
    weights = _Weights(weight_ih, weight_hh, input_bias)
    hh_r, hh_o, hh_z = weight_hh.chunk(3)
    b_r, b_o, b_z = (0, 0, 0) if bias is None else bias.chunk(3)

    def step(given: Tensor, state: _State) -> _State:
        (h,) = state
        i_r, i_o, i_z = given.chunk(3, -1)
        r = gates(i_r + h @ hh_r.T + b_r)
        z = gates(i_z + h @ hh_z.T + b_z)
        if reset_after:
            o = outer(i_o + r * (h @ hh_o.T + b_o))
        else:
            o = outer(i_o + (r * h) @ hh_o.T + b_o)
        return ((1 - z) * o + z * h,)

    out, (h,) = _run(x, weights, step, (initial_h,), direction, output_sequence)
    return out, h


@op('rnn')
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Optional[Tensor] = None,
    direction: str = 'forward',
    output_sequence: bool = False,
    activation: str = 'tanh',
) -> tuple[Tensor, Tensor]:
    """``h = activation(W_ih x + W_hh h + bias)``; shapes as of ``gru``.

    Raises:
        ProgramError: If ``direction`` or the activation is unknown.
    """
    outer = _activation(activation)

    def step(given: Tensor, state: _State) -> _State:
        return (outer(given + state[0] @ weight_hh.T),)

    weights = _Weights(weight_ih, weight_hh, bias)
    out, (h,) = _run(x, weights, step, (initial_h,), direction, output_sequence)
    return out, h


def _run(
    x: Tensor, weights: _Weights, cell: _Cell, state: _State, direction: str, output_sequence: bool
) -> tuple[Tensor, _State]:
    """First state of every step (s, b, H), as computed, or (1, b, H); the last state."""
    if direction not in ('forward', 'reverse'):
        raise ProgramError(
            f'direction is {direction!r}; allowed: forward, reverse and, of an lstm, bidirectional'
        )
    ordered = x.flip(0) if direction == 'reverse' else x
    given = torch.nn.functional.linear(ordered, weights.ih, weights.bias)
    found: list[Tensor] = []
    # Not unbind, which would make a tensor of every step at once.
    for index in range(len(given)):
        state = cell(given[index], state)
        found.append(state[0])
    if not output_sequence:
        return state[0].unsqueeze(0), state
    return torch.stack(found) if found else given.new_zeros(0, *state[0].shape), state


def _activation(name: str) -> _Activation:
    return choice('activation', name.lower(), _ACTIVATIONS)
