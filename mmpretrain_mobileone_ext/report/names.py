"""Operations of a Core ML file by the module of the network that they come from.

coremltools names operations by the trace, ``input_9_cast_fp16``, and where it folds a norm into a
convolution the weight loses its name as well. The weight itself is the same, but for a factor for
each filter: that is what a layer is known by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from torch import nn

from ..coreml.compress.weights import find_weights
from ..coreml.program.graph import Operation, Program, Value
from ..models import MobileOneBlock, switch_to_deploy
from ..models.deploy import form_of

#: Cosine of two filters that are the same but for a factor and fp16's rounding.
_SAME = 0.999
#: Modules that only hold what counts.
_HOLDERS = ('module', 'backbone', 'neck', 'branch_reparam', 'conv')
_STAGE = re.compile(r'(stage|layer)s?_?(\d+)')
_BEFORE, _DOT = 'input', ' · '


def layer_names(program: Program, network: nn.Module) -> dict[str, str]:
    """What the operations of a file are in the network, such as 'stage 2 · block 3 · depthwise'.

    An operation without a weight is named after the last one with a weight before it, and its own
    type: 'stage 2 · block 3 · depthwise · relu'.

    Args:
        program: whose weights are not compressed.
        network: that was exported; its branches may be folded or not.

    Returns:
        Operation to words. What comes from no module that is known is left out.
    """
    modules = dict(_modules(_folded(network)))
    blocks = [name for name, m in network.named_modules() if isinstance(m, MobileOneBlock)]
    known = {
        op: words_of(module, _block_of(module, blocks))
        for op, module in _matched(program, {name: _rows(m) for name, m in modules.items()}).items()
    }
    return _with_followers(program, known)


def _folded(network: nn.Module) -> nn.Module:
    return network if form_of(network) == 'folded' else switch_to_deploy(network, inplace=False)


def _modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            yield name, module


def _rows(module: Any) -> np.ndarray:
    """(output channels, everything else), fp32."""
    weight = module.weight.detach().float().cpu().numpy()
    weight = np.moveaxis(weight, 1, 0) if isinstance(module, nn.ConvTranspose2d) else weight
    return weight.reshape(len(weight), -1)


def _matched(program: Program, modules: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Operation to module, by the values of their weights."""
    free = dict(modules)
    found: dict[str, str] = {}
    rows = {w.name: w.values.reshape(len(w.values), -1) for w in find_weights(program)}
    for op, values in rows.items():
        best = max(
            (name for name, other in free.items() if other.shape == values.shape),
            key=lambda name: _likeness(values, free[name]),
            default=None,
        )
        if best is not None and _likeness(values, free[best]) > _SAME:
            found[op] = best
            del free[best]
    # Mean, std or the order of channels may be inside of the first: little else is left then.
    unknown = [name for name in rows if name not in found]
    for op in unknown if len(unknown) <= len(found) else ():
        same = [name for name, other in free.items() if other.shape == rows[op].shape]
        if len(same) == 1:
            found[op] = same[0]
            del free[same[0]]
    return found


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Median of the cosines of their filters; 0 where all are zero."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    alive = norms > 0
    if not alive.any():
        return 0.0
    return float(np.median(np.abs((one * other).sum(1)[alive] / norms[alive])))


def _block_of(module: str, blocks: Sequence[str]) -> Optional[str]:
    """The MobileOne block that a module is in."""
    return next((b for b in blocks if module == b or module.startswith(f'{b}.')), None)


def words_of(module: str, block: Optional[str] = None) -> str:
    """A module's path in words: 'backbone.layer1.0.conv2' is 'layer 1 · block 1 · conv2'.

    Args:
        module: dotted name.
        block: of MobileOne, that holds it: those of a stage are depthwise and pointwise in turn,
            and stage 0 is the stem.
    """
    if block is not None:
        inside = module[len(block) + 1 :].split('.') if module != block else []
        return _DOT.join([*_unit(block), *_plain(inside)])
    return _DOT.join(_plain(module.split('.'))) or module


def _unit(block: str) -> list[str]:
    parts = block.split('.')
    if not parts[-1].isdecimal():
        return ['stem'] if parts[-1] == 'stage0' else _plain(parts)
    number = int(parts[-1])
    return [
        *_plain(parts[:-1]),
        f'block {number // 2 + 1}',
        'pointwise' if number % 2 else 'depthwise',
    ]


def _plain(parts: Sequence[str]) -> list[str]:
    words: list[str] = []
    for before, part in zip(('', *parts), parts):
        stage = _STAGE.fullmatch(part)
        if stage:
            words.append(f'{stage[1]} {stage[2]}')
        elif part.isdecimal() and words and _STAGE.fullmatch(words[-1].replace(' ', '')):
            words.append(f'block {int(part) + 1}')
        elif part.isdecimal() and before in _HOLDERS:
            words.append(f'{before} {int(part) + 1}')
        elif part.isdecimal():
            words[-1:] = [f'{words[-1]} {int(part) + 1}' if words else part]
        elif part == 'fc' and words == ['head']:
            continue
        elif part not in _HOLDERS:
            words.append(part)
    return words


def _with_followers(program: Program, known: Mapping[str, str]) -> dict[str, str]:
    """Add the operations without weights, in execution order."""
    of_value: dict[str, str] = {}  # result to the module that it comes from
    names: dict[str, str] = {}
    order = {words: place for place, words in enumerate(known.values())}
    unknown = {w.name for w in find_weights(program)} - set(known)
    for op in program.operations if known else ():
        if op.name in unknown:
            continue
        before = [of_value[v] for v in _read(op) if v in of_value]
        origin = known.get(op.name) or max(before, key=lambda w: order.get(w, -1), default=_BEFORE)
        names[op.name] = origin if op.name in known else f'{origin}{_DOT}{op.type}'
        of_value.update(dict.fromkeys(op.outputs, origin))
    return names


def _read(op: Operation) -> Iterator[str]:
    for given in op.inputs.values():
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, Value):
                yield value.name
