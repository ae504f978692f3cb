"""``tools/benchmark_quantization.py``: train, export and score all that is asked for.

What is done is not done again: a training leaves ``trained.json``, a scored file ``cell.json``. One
that was interrupted goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

import mmengine
from mmengine.config import Config
from rich.console import Console

from ....errors import MobileOneExtError
from ....models.preprocessing import step_name
from ....utils.config import read_config
from ....utils.files import check_writable, tree_bytes, write_json, write_whole
from ....utils.machine import machine
from ....utils.text import PlainConsole, own_command
from ...console.benchmarks import quantization_parser
from ...training.demo import prepare
from ...training.to_phone import last_checkpoint, resume_option, run_tool, sole_use
from .cells import DEPLOY, Cell, Training, cells
from .options import RECIPE, QuantizationOptions
from .table import CellResult, results_table

#: The system that has all that a file may hold here.
_TARGET = 'iOS18'
#: Test images on which an export is held against its network; all of them are scored. So many that
#: chance does not decide whether two in a hundred differ, which rounded activations may.
_VERIFIED = '1000'
_METRIC = 'accuracy/top1'
#: What an export says of such a file.
_DIFFERS = 'the program differs from the network'
_TRAINED, _SCORED, _PACKAGE = 'trained.json', 'cell.json', 'model.mlpackage'
T = TypeVar('T')


@dataclass(frozen=True)
class _Run:
    """What all parts of a comparison know.

    Attributes:
        recipe: the float one.
        out: folder of all that is made.
        console: told of each part that is done.
        progress: shows how far a part is; says nothing where several run at a time.
    """

    recipe: Config
    out: Path
    console: Console
    progress: Console

    def train(self, training: Training) -> float:
        """Seconds that it took; it is skipped if it is done."""
        folder = self.out / training.folder
        cfg, config = training.config(self.recipe, self.out), folder.with_suffix('.py')
        _check_same(config, cfg)
        note = folder / _TRAINED
        if note.is_file():
            return json.loads(note.read_text('utf-8'))['seconds']
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(config, cfg.dump)
        words = [str(config), '--work-dir', str(folder), *resume_option(last_checkpoint(folder))]
        seconds = self._tool('train.py', words, folder / 'train.log', training.folder)
        write_json(note, dict(seconds=seconds))
        return seconds

    def score(self, cell: Cell) -> CellResult:
        """Export and score a file of a training that is done."""
        folder, training = self.out / cell.folder, self.out / cell.training.folder
        note = folder / _SCORED
        if note.is_file():
            return CellResult.read(note)
        folder.mkdir(parents=True, exist_ok=True)
        config, package = str(training.with_suffix('.py')), str(folder / _PACKAGE)
        checkpoint = str(training / cell.training.last)
        words = ['--out', package, '--force', '--verify-data', _VERIFIED]
        words += ['--deployment-target', _TARGET, '--compress', cell.compress]
        # What rounding afterwards costs is what is asked.
        words += ['--max-drop', '100'] if cell.method == 'after' else []
        exported = self._exported([config, checkpoint, *words], folder, cell.folder)
        result = CellResult(
            method=cell.method,
            scheme=cell.scheme,
            seed=cell.seed,
            top1=self._tested(config, package, folder, cell.folder) if exported else None,
            size_bytes=tree_bytes(folder / _PACKAGE) if exported else 0,
        )
        write_json(note, asdict(result))
        return result

    def _exported(self, words: Sequence[str], folder: Path, title: str) -> bool:
        """Whether a file is written: not if it differs from its network."""
        try:
            self._tool('export_coreml.py', words, folder / 'export.log', f'{title}: export')
        except MobileOneExtError as error:
            if _DIFFERS not in str(error):
                raise
            self.console.print(str(error))
            return False
        return True

    def _tested(self, config: str, package: str, folder: Path, title: str) -> float:
        """Top-1 of a file on the test split, by MMPretrain's own tool."""
        out = folder / 'metrics.pkl'
        words = [config, package, '--work-dir', str(folder / 'test'), '--out', str(out)]
        words += ['--out-item', 'metrics']
        self._tool('test.py', words, folder / 'test.log', f'{title}: test')
        return float(mmengine.load(out)[_METRIC])

    def _tool(self, tool: str, words: Sequence[str], log: Path, title: str) -> float:
        seconds = run_tool(tool, words, log, title, self.progress)
        self.console.print(f'{title}: {seconds:.0f} s')
        return seconds


def _check_same(config: Path, cfg: Config) -> None:
    if config.is_file() and Config.fromfile(config).pretty_text != cfg.pretty_text:
        raise MobileOneExtError(
            f'{config} is the config of another run; remove its folder or choose another --out'
        )


def compare(options: QuantizationOptions, console: Console) -> list[CellResult]:
    """Train, export and score.

    Returns:
        One result a file.

    Raises:
        MobileOneExtError: a part failed, or ``out`` holds another comparison or is in use.
    """
    recipe = read_config(options.config)
    if options.config == str(RECIPE):
        root = prepare('fashion-mnist').resolve()
        for split in ('train', 'val', 'test'):
            recipe[f'{split}_dataloader'].dataset.data_root = str(root)
    todo = list(cells(options, options.epochs or recipe.train_cfg.max_epochs))
    trainings = list(dict.fromkeys(cell.training for cell in todo))
    before = list(dict.fromkeys(t.start for t in trainings if t.start is not None))
    if before and not any(step_name(h) == DEPLOY for h in recipe.get('custom_hooks') or ()):
        raise MobileOneExtError(
            f'{options.config}: the method folded begins with what {DEPLOY} folds; add it to '
            'custom_hooks, or leave folded out of --methods'
        )
    with sole_use(options.out, console), open(os.devnull, 'w', encoding='utf-8') as nowhere:
        progress = console if options.jobs == 1 else PlainConsole(file=nowhere)
        run = _Run(recipe, options.out, console, progress)
        _all(run.train, [*before, *(t for t in trainings if t.start is None)], options.jobs)
        _all(run.train, [t for t in trainings if t.start is not None], options.jobs)
        return _all(run.score, todo, options.jobs)


def _all(call: Callable[[Any], T], items: Iterable[Any], jobs: int) -> list[T]:
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(call, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # What has not begun never does.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(argv: Optional[Sequence[str]] = None) -> Optional[Path]:
    """Compare as the command line says.

    Returns:
        The file of ``--json``, if one was asked for.

    Raises:
        MobileOneExtError: see :func:`compare`.
    """
    args = vars(quantization_parser().parse_args(argv))
    lists = {name: tuple(args[name]) for name in ('methods', 'schemes', 'seeds')}
    options = QuantizationOptions(**{**args, **lists})
    check_writable(options.json)
    console = PlainConsole(stderr=True, highlight=False)
    start = time.monotonic()
    results = compare(options, console)
    PlainConsole().print(results_table(results))
    if options.json is None:
        return None
    return write_json(
        options.json,
        dict(
            command=own_command(),
            machine=machine('cpu'),
            config=Path(options.config).name,
            epochs=options.epochs or read_config(options.config).train_cfg.max_epochs,
            seconds=time.monotonic() - start,
            results=[asdict(result) for result in results],
        ),
    )
