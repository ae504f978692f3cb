"""``tools/benchmark_latency.py``: fit the model of time, and say how wrong it is.

It is fitted to published latencies, on files of the very networks; each is predicted by a fit that
never saw it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Optional

from ....coreml.neural_engine.latency import estimate
from ....coreml.neural_engine.latency.estimate import COVERAGE, LatencyModel, bar_of
from ....coreml.neural_engine.latency.features import Layer, as_rows, from_rows, has_attention
from ....coreml.neural_engine.latency.fit import Quality, Sample, leave_one_out
from ....coreml.neural_engine.latency.forms import CHOSEN, FORMS, count
from ....coreml.neural_engine.latency.published import published
from ....errors import MobileOneExtError
from ....utils.files import check_writable, write_json, write_whole
from ....utils.machine import machine
from ....utils.text import PlainConsole, Steps, own_command
from ...console.benchmarks import latency_parser
from .networks import THIRTY, layers, network, thirty_name
from .options import LatencyOptions
from .plain import ACTIVATIONS, PLANS
from .table import forms_table, lines, networks_table

#: Made by ``--export DIR --write-features``.
LAYERS = Path(estimate.__file__).with_name('layers.json.gz')

Networks = Mapping[str, tuple[Layer, ...]]


def collect(folder: Path, steps: Steps) -> Networks:
    """Export every network that is not there yet, and read all.

    Raises:
        MobileOneExtError: one cannot be built or exported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [*published().ms, *THIRTY]
    found = {}
    with steps.step('export', total=len(names)) as advance:
        for name in names:
            found[name] = layers(network(name), folder)
            advance(1)
    return found


def read_features(path: Path) -> Networks:
    """What ``--write-features`` wrote.

    Raises:
        MobileOneExtError: unreadable, or not all of the networks.
    """
    try:
        text = gzip.decompress(path.read_bytes())
        read = {n: from_rows(rows) for n, rows in json.loads(text)['networks'].items()}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise MobileOneExtError(f'{path}: no file of --write-features: {error}') from error
    missing = [name for name in (*published().ms, *THIRTY) if name not in read]
    if missing:
        raise MobileOneExtError(f'{path} lacks {", ".join(missing)}')
    return read


def write_features(path: Path, networks: Networks) -> Path:
    """Write the layers of all networks, JSON in gzip."""
    rows = {name: as_rows(found) for name, found in networks.items()}
    text = json.dumps(dict(command=own_command(), networks=rows), separators=(',', ':'))
    content = gzip.compress(text.encode(), mtime=0)
    return write_whole(path, lambda made: made.write_bytes(content))


def evaluate(networks: Networks) -> list[Quality]:
    """Every form of the model: each published network predicted by a fit to all others."""
    samples = [
        Sample(name, count(networks[name]), ms, has_attention(networks[name]))
        for name, ms in published().ms.items()
    ]
    return [leave_one_out(form, samples) for form in FORMS.values()]


def thirty(networks: Networks, quality: Quality) -> dict[str, dict[str, float]]:
    """Plan to activation to ms, of the networks that only have an order."""
    form, found = FORMS[quality.form], {}
    for plan in PLANS:
        found[plan] = {
            kind: form.total_ms(count(networks[thirty_name(plan, kind)]), quality.values)
            for kind in ACTIVATIONS
        }
    return found


def fitted(networks: Networks, quality: Quality) -> LatencyModel:
    """What estimates are made with."""
    names = [name for name in quality.measured if not has_attention(networks[name])]
    facts = published()
    return LatencyModel(
        form_name=quality.form,
        values=quality.values,
        bar=bar_of(quality, names),
        networks=len(names),
        source=f'{facts.title}, {facts.url}',
        device=facts.device,
    )


def document(networks: Networks, qualities: Sequence[Quality]) -> dict[str, Any]:
    """All that was computed, for JSON."""
    facts, chosen = published(), next(q for q in qualities if q.form == CHOSEN)
    return dict(
        command=own_command(),
        machine=machine('cpu'),
        published=dict(title=facts.title, url=facts.url, device=facts.device, how=facts.how),
        coverage=COVERAGE,
        model=fitted(networks, chosen).document(),
        forms=[_form_row(networks, q) for q in qualities],
        networks=[_network_row(networks, chosen, name) for name in chosen.measured],
        thirty_layers=dict(published=facts.thirty_layers, predicted=thirty(networks, chosen)),
    )


def _form_row(networks: Networks, quality: Quality) -> dict[str, Any]:
    form = FORMS[quality.form]
    variants = [quality.predicted[f'mobileone-s{i}'] for i in range(5)]
    orders = [list(row.values()) for row in thirty(networks, quality).values()]
    return dict(
        name=form.name,
        words=form.words,
        is_baseline=form.is_baseline,
        parameters={p.name: [quality.values[p.name], p.unit] for p in form.parameters},
        median_error=quality.median_error,
        mean_error=fmean(map(abs, quality.errors.values())),
        spearman=quality.spearman,
        orders_variants=_is_rising(variants),
        orders_activations=all(map(_is_rising, orders)),
    )


def _is_rising(values: Sequence[float]) -> bool:
    return all(a < b for a, b in zip(values, values[1:]))


def _network_row(networks: Networks, quality: Quality, name: str) -> dict[str, Any]:
    layers = networks[name]
    return dict(
        name=name,
        macs=sum(layer.macs for layer in layers),
        weights=sum(layer.weights for layer in layers if layer.kind != 'free'),
        has_attention=has_attention(layers),
        measured_ms=quality.measured[name],
        predicted_ms=quality.predicted[name],
        error=quality.errors[name],
        table=published().tables[name],
    )


def run(argv: Optional[Sequence[str]] = None) -> Optional[Path]:
    """Fit and evaluate as the command line says.

    Returns:
        The file of ``--json``, if one was asked for.

    Raises:
        MobileOneExtError: a network cannot be built or exported, or a file not be written.
    """
    options = LatencyOptions(**vars(latency_parser().parse_args(argv)))
    for path in (options.json, options.write_features, options.write_model):
        check_writable(path)
    steps = Steps(True)
    export, features = options.export, options.features or LAYERS
    networks = collect(export, steps) if export else read_features(features)
    with steps.step('fit each form without each network'):
        qualities = evaluate(networks)
    found = document(networks, qualities)
    console = PlainConsole()
    console.print(forms_table(found))
    console.print(networks_table(found))
    for line in lines(found):
        console.print(line, highlight=False)
    if options.write_features:
        write_features(options.write_features, networks)
    if options.write_model:
        write_json(options.write_model, found['model'])
    return write_json(options.json, found) if options.json else None
