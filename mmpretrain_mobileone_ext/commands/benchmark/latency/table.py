"""What an evaluation of the model of time found, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ....utils.text import figures_table

FORM_HEADS = (
    *('parameters', 'median error', 'mean error', 'Spearman'),
    *('orders S0 to S4', 'orders activations'),
)
NETWORK_HEADS = ('M multiply-adds', 'M weights', 'measured ms', 'predicted ms', 'error')


def form_cells(row: Mapping[str, Any]) -> list[str]:
    """Of a row of ``forms``."""
    return [
        str(len(row['parameters'])),
        f'{row["median_error"]:.1%}',
        f'{row["mean_error"]:.1%}',
        f'{row["spearman"]:.3f}',
        'yes' if row['orders_variants'] else 'no',
        'yes' if row['orders_activations'] else 'no',
    ]


def network_cells(row: Mapping[str, Any]) -> list[str]:
    """Of a row of ``networks``."""
    return [
        f'{row["macs"] / 1e6:.0f}',
        f'{row["weights"] / 1e6:.2f}',
        f'{row["measured_ms"]:.2f}',
        f'{row["predicted_ms"]:.2f}',
        f'{row["error"]:+.0%}',
    ]


def forms_table(found: Mapping[str, Any]) -> Table:
    """A row a form."""
    title = f'forms of the model, each of {len(found["networks"])} networks left out in turn'
    table = figures_table(['form'], _stacked(FORM_HEADS), whole=True, title=title)
    for row in found['forms']:
        name = row['name'] + (' (baseline)' if row['is_baseline'] else '')
        table.add_row(name, *form_cells(row))
    return table


def networks_table(found: Mapping[str, Any]) -> Table:
    """A row a network, predicted by the chosen form without it."""
    title = f'{found["model"]["form_name"]!r}: each network predicted by a fit to the others'
    table = figures_table(['network'], _stacked(NETWORK_HEADS), whole=True, title=title)
    for row in found['networks']:
        table.add_row(row['name'], *network_cells(row))
    return table


def lines(found: Mapping[str, Any]) -> list[str]:
    """The fitted parameters, the error that is stated, and the networks of thirty layers."""
    model = found['model']
    row = next(r for r in found['forms'] if r['name'] == model['form_name'])
    values = ', '.join(f'{n} {v:.4g} {unit}' for n, (v, unit) in row['parameters'].items())
    thirty = found['thirty_layers']
    return [
        f'fitted to {model["networks"]} networks on an {model["device"]}: {values}',
        f'the bounds, a factor of {math.exp(model["bar"]):.2f}, are made to hold '
        f'{10 * found["coverage"]:.0f} of 10 further networks of this kind',
        f'thirty layers, published: {_milliseconds(thirty["published"])}',
        *(
            f'thirty layers, {plan}: {_milliseconds(each)} (widths are not published: an order)'
            for plan, each in thirty['predicted'].items()
        ),
    ]


def _stacked(heads: Sequence[str]) -> list[str]:
    return [head.replace(' ', '\n') for head in heads]


def _milliseconds(each: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {ms:.3f}' for name, ms in each.items()) + ' ms'
