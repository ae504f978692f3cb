"""The operators of ``torch.ops.mobileone_ext`` by torch's own rules, and units under torch.compile.

Nothing here knows what operators there are: whatever a training step of a unit calls is taken down
and called again, with the same arguments, by ``torch.library.opcheck``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Optional

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ....utils.text import one_line
from .units import METHODS, ODD, PRECISIONS, REAL, UNITS, Finding, UnitCase

NAMESPACE = 'mobileone_ext'
#: Their arguments are what units are called with in training.
_CALLED = (('moments', 'fp32'), ('moments', 'bf16'), ('memory', 'fp32'))


@dataclass(frozen=True)
class OperatorFinding:
    """One operator, called as one unit calls it.

    Attributes:
        operator: its name with its overload.
        unit, method, precision: keys of the tables of ``units``.
        failure: what it breaks, or None.
    """

    operator: str
    unit: str
    method: str
    precision: str
    failure: Optional[str] = None

    @property
    def passed(self) -> bool:
        return self.failure is None

    @property
    def line(self) -> str:
        where = f'{self.operator}, {self.unit}, {self.method}, {self.precision}'
        return f'{where}: {self.failure or "keeps the rules"}'

    def document(self) -> dict[str, Any]:
        return {**asdict(self), 'passed': self.passed}


class Calls(TorchDispatchMode):
    """Takes down the first call of each operator of the namespace.

    Attributes:
        calls: operator to positional and keyword arguments, which are copies.
        with_gradients: whether copies ask for gradients where the arguments did. A gradient's own
            gradient is nobody's.
    """

    def __init__(self, namespace: str = NAMESPACE):
        super().__init__()
        self.namespace = namespace
        self.calls: dict[Any, tuple[Any, Any]] = {}
        self.with_gradients = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == self.namespace and func not in self.calls:
            self.calls[func] = tree_map(self._copy, args), tree_map(self._copy, kwargs)
        return func(*args, **kwargs)

    def _copy(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        copy = value.detach().clone()
        return copy.requires_grad_(self.with_gradients and value.requires_grad)


def operator_calls(case: UnitCase, method: str) -> dict[Any, tuple[Any, Any]]:
    """What operators a training step of a unit calls, and with what."""
    block, x = case.block(METHODS[method]), case.images().requires_grad_()
    cast = PRECISIONS[case.precision].autocast
    with Calls() as mode:
        with nullcontext() if cast is None else torch.autocast(case.device, cast):
            out = block(x)
        mode.with_gradients = False
        out.float().square().mean().backward()
    return mode.calls


def operator_checks(device: str) -> list[Callable[[], Iterator[OperatorFinding]]]:
    """One check a unit, method and arithmetic; none before torch 2.4, which has no opcheck."""
    if not hasattr(torch.library, 'opcheck'):
        return []

    def check(unit: str, method: str, precision: str) -> Iterator[OperatorFinding]:
        case = UnitCase(unit, 'normal', precision, ODD, device)
        try:
            calls = operator_calls(case, method)
        except Exception as error:  # whatever a compiler or a driver raises
            yield OperatorFinding('a step', unit, method, precision, one_line(error))
            return
        for operator, (args, kwargs) in calls.items():
            failure = broken_rule(operator, args, kwargs)
            yield OperatorFinding(str(operator), unit, method, precision, failure)

    return [
        lambda given=(unit, *called): check(*given)  # type: ignore[misc]
        for called in _CALLED
        for unit in UNITS
    ]


def broken_rule(operator: Any, args: Any, kwargs: Any) -> Optional[str]:
    """What ``torch.library.opcheck`` finds, in one line; None if nothing."""
    try:
        torch.library.opcheck(operator, args, kwargs)
    except Exception as error:  # of many kinds, by what is broken
        return one_line(error)
    return None


def compiled_units(device: str, backend: str = 'inductor') -> list[Callable[[], Iterator[Finding]]]:
    """One check a unit: trained under torch.compile, against its branches in float64."""

    def compiled(block: torch.nn.Module) -> Any:
        torch._dynamo.reset()
        return torch.compile(block, backend=backend, dynamic=False)

    size = ODD if device == 'cpu' else REAL
    cases = [UnitCase(unit, 'rectified', 'fp32', size, device) for unit in UNITS]
    return [
        lambda case=case: case.findings({'moments, compiled': True}, compiled)  # type: ignore[misc]
        for case in cases
    ]
