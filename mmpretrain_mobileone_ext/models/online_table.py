"""Show which form every unit of a network takes, and why."""
from __future__ import annotations

from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from ..outside_text import PlainConsole
from .block import MobileOneBlock
from .online import planned_form
from .shielded_stats import shielded_stats
from .switch import branches_only


def online_forms(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    """The form of every unit in branch form, for a batch like ``x``.

    Modes of the modules count: call it on a model in training mode. Running
    statistics and gradients are left alone.

    Returns:
        One dict a unit: ``unit``, ``input`` (shape), ``form``, ``why``.
    """
    rows: list[dict[str, Any]] = []
    handles = []
    preferences = {b: b.online_reparam for b in model.modules()
                   if isinstance(b, MobileOneBlock) and not b.deploy}

    def record(block: Any, inputs: tuple) -> None:
        unit = block.unit()
        choice = planned_form(unit, inputs[0], preferences[block],
                              block.training)
        rows.append(dict(unit=block.spec.name, input=tuple(inputs[0].shape),
                         form=choice.form, why=choice.why))

    for block in preferences:
        handles.append(block.register_forward_pre_hook(record))
    try:
        with branches_only(model), shielded_stats(model), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def print_online_forms(model: nn.Module, x: Tensor) -> None:
    """Print :func:`online_forms` as a table."""
    table = Table('unit', 'input', 'form', 'why')
    for row in online_forms(model, x):
        table.add_row(row['unit'], 'x'.join(map(str, row['input'])),
                      row['form'], row['why'])
    PlainConsole().print(table)
