"""Write into README.md and the pages of docs/ what was measured, and what the program says.

A page names a figure by a pair of comments, and this script writes what stands between them::

    <!--measured:compare-->
    ...
    <!--/measured-->

Each figure is made from one file of ``docs/measured``, which a tool wrote; what no tool writes, or
none wrote yet, is a *record* there: heads and rows, with its command, machine and versions.
Between ``<!--written:NAME-->`` and ``<!--/written-->`` stand options, operations and messages, as
the program has them.

``python docs/tables.py`` writes all pages, ``--check`` says which ones are stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from mmpretrain_mobileone_ext.commands.benchmark import paired_ratio
from mmpretrain_mobileone_ext.commands.benchmark.latency import table as latency_table
from mmpretrain_mobileone_ext.commands.benchmark.quantization.table import HEADS, CellResult, rows
from mmpretrain_mobileone_ext.utils.text import counted, markdown_code, markdown_table, share

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs/_ext'))

import engine_tables  # noqa: E402
import from_program  # noqa: E402

MEASURED = ROOT / 'docs/measured'
_BLOCK = re.compile(r'(<!--(measured|written):([\w-]+)-->)(.*?)(<!--/\2-->)', re.DOTALL)
_SHOWN_VERSIONS = ('torch', 'mmpretrain', 'coremltools')
_ABSENT = '\u2013'
_EXECUTED_BY = {
    '.mlpackage': 'the reference runtime',
    '.mlmodel': 'the reference runtime',
    '.aimodel': "Apple's interpreter",
}

Figure = Callable[[Path], str]
FIGURES: dict[str, Figure] = {}


def figure(*names: str) -> Callable[[Figure], Figure]:
    """Register what writes the figures of these names."""

    def register(function: Figure) -> Figure:
        FIGURES.update(dict.fromkeys(names, function))
        return function

    return register


def read(folder: Path, name: str) -> dict[str, Any]:
    """A file of ``docs/measured``, by its name without suffix."""
    return json.loads((folder / f'{name}.json').read_text('utf-8'))


def caption(command: Any, machine: Any, versions: Mapping[str, str], note: str = '') -> str:
    """One line on where a table is from."""
    words = command if isinstance(command, str) else ' '.join(map(str, command))
    parts = [_machine_in_words(machine)]
    parts += [f'{name} {versions[name]}' for name in _SHOWN_VERSIONS if name in versions]
    return f'{markdown_code(words)}: {", ".join(parts)}.' + (f' {note}' if note else '')


def _machine_in_words(machine: Any) -> str:
    if isinstance(machine, str):
        # A report's ends with the system.
        return ', '.join(machine.split(', ')[:2])
    return machine.get('gpu') or f'{machine["cores"]} cores of {machine["cpu"]}'


def block(heads: Sequence[str], rows: Sequence[Sequence[Any]], align: str, below: str) -> str:
    """A table and the line below it."""
    return f'{markdown_table(heads, rows, align)}\n{below}'


def recorded(data: Mapping[str, Any]) -> str:
    """The table of a record."""
    below = caption(data['command'], data['machine'], data['versions'], data.get('note', ''))
    return block(data['heads'], data['rows'], data['align'], below)


def _record_figure(name: str) -> Figure:
    return lambda folder: recorded(read(folder, name))


for _name in (
    *('branches', 'fashion', 'formats-fashion', 'formats-s0'),
    *('mmdeploy', 'runtime', 'longer', 'trained-files'),
):
    FIGURES[_name] = _record_figure(_name)


# Training steps: JSON of tools/benchmark_training.py.

_TRAINING = ('mmpretrain', 'auto', 'folded')
_FRUGAL = ('mmpretrain', 'memory', 'folded')


def _tool_caption(data: Mapping[str, Any]) -> str:
    notes = ' '.join(f'Note: {note}.' for note in data['notes'])
    return caption(data['command'], data['machine'], data['machine']['versions'], notes)


def _costs(case: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {cost['form']: cost for cost in case['costs']}


def _training_row(case: Mapping[str, Any], forms: Sequence[str]) -> list[str]:
    costs = _costs(case)
    theirs, ours, floor = (costs[form] for form in forms)
    saved = [cost['saved_bytes'] / 1e6 for cost in (theirs, ours)]
    return [
        case['arch'].upper(),
        *(f'{cost["median_ms"]:.0f}' for cost in (theirs, ours)),
        *(f'{paired_ratio(theirs["step_ms"], c["step_ms"]):.2f}' for c in (ours, floor)),
        *(f'{megabytes:.0f}' for megabytes in saved),
        f'{saved[1] / saved[0]:.2f}',
    ]


_TRAINING_HEADS = (
    '',
    "MMPretrain's, ms",
    'ours, ms',
    'times faster',
    'folded, times faster',
    "MMPretrain's, saved MB",
    'ours, saved MB',
    'share',
)


def _training_rows(folder: Path, forms: Sequence[str] = _TRAINING) -> list[list[str]]:
    cases = read(folder, 'training')['cases']
    return [_training_row(case, forms) for case in cases if case['costs']]


@figure('training')
def training(folder: Path) -> str:
    """Step time and memory of S0 to S4."""
    data = read(folder, 'training')
    rows, below = _training_rows(folder), _tool_caption(data)
    return block(_TRAINING_HEADS, rows, 'l' + 'r' * (len(_TRAINING_HEADS) - 1), below)


@figure('sweep')
def sweep(folder: Path) -> str:
    """Step time by our own branches' over a grid of shapes, by the number of images."""
    data = read(folder, 'sweep')
    by_batch: dict[int, list[tuple[int, float]]] = {}
    for case in (case for case in data['cases'] if case['costs']):
        branches, ours = (_costs(case)[form]['step_ms'] for form in ('branches', 'auto'))
        by_batch.setdefault(case['batch'], []).append((case['size'], paired_ratio(ours, branches)))
    rows = []
    for batch, found in sorted(by_batch.items(), reverse=True):
        sizes, ratios = zip(*found)
        rows.append(
            [
                f'{batch}, of {min(sizes)} to {max(sizes)} pixels a side',
                str(len(found)),
                f'{min(ratios):.2f} to {max(ratios):.2f}',
            ]
        )
    heads = ('images a step', 'cases, S0 to S4', 'time of a step, ours by our own branches')
    return block(heads, rows, 'lrr', _tool_caption(data))


_COMPILED = ('mmpretrain', 'mmpretrain compiled', 'auto', 'auto compiled')
_COMPILED_HEADS = (
    *('', "MMPretrain's, ms", 'compiled, ms', 'ours, ms', 'compiled, ms'),
    'times faster, both compiled',
)


@figure('compiled')
def compiled(folder: Path) -> str:
    """Step time under torch.compile and without it."""
    data = read(folder, 'compiled')
    rows = []
    for case in (case for case in data['cases'] if case['costs']):
        costs = [_costs(case)[form] for form in _COMPILED]
        _, theirs, _, ours = costs
        rows.append(
            [
                case['arch'].upper(),
                *(f'{cost["median_ms"]:.0f}' for cost in costs),
                f'{paired_ratio(theirs["step_ms"], ours["step_ms"]):.2f}',
            ]
        )
    align = 'l' + 'r' * (len(_COMPILED_HEADS) - 1)
    return block(_COMPILED_HEADS, rows, align, _tool_caption(data))


@figure('training-speed')
def training_speed(folder: Path) -> str:
    """How many times faster a step is, '1.5 to 3.0'."""
    return _range(_training_rows(folder), 3, 1, '.2f')


def _speeds(folder: Path) -> dict[str, tuple[float, float]]:
    """By architecture: how many times faster a step is, and one of the folded network."""
    rows = _training_rows(folder)
    return {row[0]: (float(row[3]), float(row[4])) for row in rows}


@figure('training-speed-s0')
def training_speed_s0(folder: Path) -> str:
    """Of the smallest network, '2.96'."""
    return f'{_speeds(folder)["S0"][0]:.2f}'


@figure('training-speed-larger')
def training_speed_larger(folder: Path) -> str:
    """Of all others, '1.47 to 1.89'."""
    others = [ours for arch, (ours, _) in _speeds(folder).items() if arch != 'S0']
    return f'{min(others):.2f} to {max(others):.2f}'


@figure('training-floor')
def training_floor(folder: Path) -> str:
    """How many times faster than ours the folded network is, '1.2 to 2.7'."""
    ratios = [floor / ours for ours, floor in _speeds(folder).values()]
    return f'{min(ratios):.2f} to {max(ratios):.2f}'


@figure('training-step-s0')
def training_step_s0(folder: Path) -> str:
    """A step of S0, ours, '1.3 s'."""
    (milliseconds,) = (float(row[2]) for row in _training_rows(folder) if row[0] == 'S0')
    return f'{milliseconds / 1000:.1f} s'


@figure('training-memory')
def training_memory(folder: Path) -> str:
    """Percent of the activations that are still saved, '21 to 58'."""
    return _range(_training_rows(folder), -1, 100, '.0f')


@figure('training-frugal-memory')
def training_frugal_memory(folder: Path) -> str:
    """The same of ``online_reparam='memory'``."""
    return _range(_training_rows(folder, _FRUGAL), -1, 100, '.0f')


@figure('training-frugal-speed')
def training_frugal_speed(folder: Path) -> str:
    """How many times faster a step of ``online_reparam='memory'`` is."""
    return _range(_training_rows(folder, _FRUGAL), 3, 1, '.2f')


def _range(rows: Sequence[Sequence[str]], column: int, factor: float, form: str) -> str:
    values = [factor * float(row[column]) for row in rows]
    return f'{min(values):{form}} to {max(values):{form}}'


# JSON of a report: the forms of a network, and what a search for compression tried.


def _report_caption(data: Mapping[str, Any], note: str = '') -> str:
    made = data['provenance']
    return caption(made['command'], made['machine'], made['versions'], note)


def _kib(size: Optional[int]) -> str:
    return _ABSENT if size is None else f'{size / 1024:.1f}'


@figure('digits')
def digits(folder: Path) -> str:
    """Every form that the demo leaves, scored."""
    data = read(folder, 'digits')
    rows = [
        [
            form['form'],
            share(form['top1'], data['num_images']),
            _kib(form['size_bytes']),
            f'{form["agreement"]:.2f}',
        ]
        for form in data['forms']
        if form['kind'] != 'check'
    ]
    heads = ('form', 'top-1 % [95 % interval]', 'size KiB', 'same top-1 as branches %')
    return block(heads, rows, 'lrrr', _report_caption(data, f'Scored on {data["images"]}.'))


@figure('formats')
def formats(folder: Path) -> str:
    """One network in both of Apple's formats, and what executed each file."""
    data = read(folder, 'formats')
    rows = [
        [
            form['file'],
            form['form'],
            _EXECUTED_BY.get(Path(form['file']).suffix, 'torch'),
            _kib(form['size_bytes']),
            share(form['top1'], data['num_images']),
            f'{form["agreement"]:.2f}',
        ]
        for form in data['forms']
        if form['kind'] != 'check'
    ]
    heads = (
        *('file', 'form', 'executed by', 'size KiB'),
        *('top-1 % [95 % interval]', 'same top-1 as branches %'),
    )
    return block(heads, rows, 'lllrrr', _report_caption(data, f'Scored on {data["images"]}.'))


@figure('digits-top1')
def digits_top1(folder: Path) -> str:
    """Top-1 of the Core ML file of the demo."""
    data = read(folder, 'digits')
    found = [f for f in data['forms'] if f['kind'] == 'coreml']
    return f'{found[0]["top1"]:.1f} %'


@figure('compression')
def compression(folder: Path) -> str:
    """Fixed schemes, and what the search chose."""
    return _searched(read(folder, 'compression'))


@figure('coreai-compression')
def coreai_compression(folder: Path) -> str:
    """The same of an ``.aimodel``."""
    return _searched(read(folder, 'coreai-compression'))


def _searched(data: Mapping[str, Any]) -> str:
    shown = [c for c in data['candidates'] if c['kind'] in ('none', 'fixed') or c['chosen']]
    rows = [
        [
            _scheme(candidate),
            _kib(candidate['size_bytes']),
            f'{candidate["top1"]:.2f}',
            f'{candidate["agreement"]:.2f}',
        ]
        for candidate in shown
    ]
    note = f'{len(data["candidates"])} files; scored on {data["chosen_on"] or data["images"]}.'
    heads = ('scheme', 'size KiB', 'top-1 %', 'same top-1 as torch %')
    return block(heads, rows, 'lrrr', _report_caption(data, note))


def _scheme(candidate: Mapping[str, Any]) -> str:
    name = 'fp16' if candidate['kind'] == 'none' else candidate['scheme']
    if candidate['chosen']:
        return f'chosen: {name}'
    return name if candidate['fits'] else f'{name} (refused)'


@figure('search-result')
def search_result(folder: Path) -> str:
    """'59 to 33 KiB, for 0.37 points of top-1': what the search gained and lost."""
    return _gained(read(folder, 'compression'))


@figure('palettize6-result')
def palettize6_result(folder: Path) -> str:
    """The same of a fixed scheme."""
    return _gained(read(folder, 'palettize6'))


def _gained(data: Mapping[str, Any]) -> str:
    """On all images, against the file before compression."""
    before, after = (
        next(form for form in data['forms'] if form['form'] == name)
        for name in (data['baseline'], data['chosen'])
    )
    sizes = ' to '.join(f'{form["size_bytes"] / 1024:.0f}' for form in (before, after))
    lost = before['top1'] - after['top1']
    return f'{sizes} KiB, ' + (f'for {lost:.2f} points of top-1' if lost else 'at the same top-1')


# JSON of tools/benchmark_quantization.py.


@figure('quantization')
def quantization(folder: Path) -> str:
    """Ways to a quantized file, with their spread over seeds."""
    if not (folder / 'quantization.json').is_file():
        return 'Not measured yet: `mobileone-ext benchmark-quantization --json quantization.json`.'
    data = read(folder, 'quantization')
    results = [CellResult(**result) for result in data['results']]
    note = f'{data["epochs"]} epochs of {markdown_code(data["config"])}.'
    below = caption(data['command'], data['machine'], data['machine']['versions'], note)
    return block(('', 'trained', *HEADS), list(rows(results)), 'llrrrrr', below)


# JSON of tools/compare.py.


def _by_source(row: Mapping[str, Any], key: str) -> Optional[float]:
    values = [p[key] for p in row['published'] if p.get(key) is not None]
    return values[0] if values else None


@figure('compare')
def compare(folder: Path) -> str:
    """MobileOne and its peers."""
    data = read(folder, 'compare')
    rows = [
        [
            row['label'],
            f'{row["params"] / 1e6:.2f}',
            f'{row["flops"] / 1e6:.0f}',
            f'{row["coreml_bytes"] / 2**20:.2f}',
            row['coreml_ops'],
            _known(_by_source(row, 'top1')),
            _known(_by_source(row, 'mobile_ms')),
        ]
        for row in data['rows']
    ]
    heads = (
        'model',
        'params M',
        'FLOPs M',
        'Core ML MiB (fp16)',
        'operations',
        'top-1 %, published',
        'iPhone 12 ms, published',
    )
    machine = data['machine']
    below = caption('mobileone-ext compare', machine, machine['versions'])
    return block(heads, rows, 'lrrrrrr', below)


@figure('preflight')
def on_the_engine(folder: Path) -> str:
    """Networks on chips: operations on the engine, and what is off."""
    data = read(folder, 'preflight')
    names = [chip['chip'] for chip in data['files'][0]['chips']]
    rows = [
        [file['file'].partition('.')[0], *map(_on_chip, file['chips']), _off_engine(file)]
        for file in data['files']
    ]
    below = caption(data['command'], data['machine'], data['machine']['versions'])
    heads = ['network', *names, 'off the engine']
    return block(heads, rows, 'l' + 'r' * len(names) + 'l', below)


def _on_chip(chip: Mapping[str, Any]) -> str:
    changes = f', {counted(chip["switches"], "change")}' if chip['switches'] else ''
    return f'{chip["on_engine"]} of {chip["operations"]}{changes}'


def _off_engine(file: Mapping[str, Any]) -> str:
    found = {f'{g["number"]} x {g["type"]}': None for chip in file['chips'] for g in chip['off']}
    return ', '.join(found) or _ABSENT


# JSON of tools/benchmark_latency.py.


def _latency(folder: Path) -> tuple[dict[str, Any], str]:
    data = read(folder, 'latency')
    return data, caption(data['command'], data['machine'], data['machine']['versions'])


@figure('latency-forms')
def latency_forms(folder: Path) -> str:
    """Forms of the model of time, and the baselines."""
    data, below = _latency(folder)
    rows = [
        [row['name'], row['words'], *latency_table.form_cells(row)]
        for row in sorted(data['forms'], key=lambda row: not row['is_baseline'])
    ]
    heads = ('form', 'what a layer takes', *latency_table.FORM_HEADS)
    return block(heads, rows, 'llrrrrll', below)


@figure('latency-networks')
def latency_networks(folder: Path) -> str:
    """Every published network, predicted by a fit to the others."""
    data, below = _latency(folder)
    rows = [[row['name'], *latency_table.network_cells(row)] for row in data['networks']]
    return block(('network', *latency_table.NETWORK_HEADS), rows, 'lrrrrr', below)


@figure('latency-thirty')
def latency_thirty(folder: Path) -> str:
    """Networks of thirty layers, of which the order counts."""
    data, below = _latency(folder)
    thirty = data['thirty_layers']
    each = [('published', thirty['published']), *thirty['predicted'].items()]
    rows = [[name, *(f'{ms:.4f}' for ms in row.values())] for name, row in each]
    heads = ('30 layers, ms', 'ReLU', 'GELU', 'SE, ReLU', 'SiLU')
    return block(heads, rows, 'lrrrr', below)


@figure('latency-model')
def latency_model(folder: Path) -> str:
    """The parameters of the chosen form, and the error that is stated."""
    data, below = _latency(folder)
    words = latency_table.lines(data)[:2]
    return '\n' + ''.join(f'- {line}\n' for line in words) + f'\n{below}'


def _known(value: Optional[float]) -> str:
    return _ABSENT if value is None else f'{value:.2f}'


# What the program says of itself.


def _program_words(write: Callable[[], str]) -> Figure:
    return lambda folder: write()


def _program_figure(write: Callable[..., str], *names: str) -> Figure:
    return lambda folder: '\n' + write(*names)


FIGURES.update(
    {
        'chips': _program_figure(from_program.chips),
        'commands': _program_figure(from_program.commands),
        'messages': _program_figure(from_program.messages),
        'operations': _program_figure(from_program.operations),
        'options-export': _program_figure(from_program.options, 'export'),
        'options-finetune': _program_figure(from_program.options, 'finetune'),
        'schemes': _program_figure(from_program.schemes),
        'methods': _program_figure(from_program.methods),
        'engine-chips': _program_figure(engine_tables.chips),
        'engine-limits': _program_figure(engine_tables.limits),
        'engine-operations': _program_figure(engine_tables.operations),
        'weights-s0': _program_words(from_program.weights),
        'finetune-plan': _program_words(from_program.finetune_plan),
        'default-target': _program_words(from_program.default_target),
        'sixty-photos': _program_words(from_program.sixty_photos),
    }
)


# The pages.


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and every page of docs/ that has a figure."""
    found = [root / 'README.md', *sorted((root / 'docs').rglob('*.md'))]
    return [page for page in found if _BLOCK.search(page.read_text('utf-8'))]


def filled(text: str, folder: Path = MEASURED, where: str = '') -> str:
    """A page with all its figures as measured.

    Raises:
        SystemExit: it names a figure that nobody writes.
    """

    def written(match: re.Match[str]) -> str:
        start, _, name, old, end = match.groups()
        if name not in FIGURES:
            raise SystemExit(f'{where}: no figure {name!r}; known: {", ".join(sorted(FIGURES))}')
        made = FIGURES[name](folder)
        around = '\n' if '\n' in old or '\n' in made else ''
        return f'{start}{around}{made}{around}{end}'

    return _BLOCK.sub(written, text)


def stale(root: Path = ROOT, folder: Path = MEASURED) -> dict[Path, str]:
    """Pages that differ from what was measured, with what they should be."""
    texts = {page: page.read_text('utf-8') for page in pages(root)}
    wanted = {page: filled(text, folder, page.name) for page, text in texts.items()}
    return {page: text for page, text in wanted.items() if text != texts[page]}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Write or check all pages; 1 if a checked one is stale."""
    p = argparse.ArgumentParser(
        description='Write what was measured, and what the program says, into README.md and docs/.'
    )
    p.add_argument('--check', action='store_true', help='only say which pages are stale')
    check = p.parse_args(argv).check
    found = stale()
    for page, text in found.items():
        print(f'{page.relative_to(ROOT)}: {"stale" if check else "written"}')
        if not check:
            page.write_text(text, encoding='utf-8')
    return int(check and bool(found))


if __name__ == '__main__':
    sys.exit(main())
