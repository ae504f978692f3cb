"""Variants of any name: what is written of them stays text."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hostile_text import NAMES, RUNS
from markdown_it import MarkdownIt
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.ablation import run
from mmpretrain_mobileone_ext.commands.training.ablation import run as cli
from mmpretrain_mobileone_ext.commands.training.ablation.grid import Grid, grid_from
from mmpretrain_mobileone_ext.commands.training.ablation.table import (
    TrialResult,
    summarize,
    summary_table,
    write_results,
)
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.utils.config import MIM
from mmpretrain_mobileone_ext.utils.text import PlainConsole, shown

DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'
RESULTS = [TrialResult(name, 0, '$\\frac$ [/]', -1.5, 0.1, 2, 1) for name in NAMES]


@pytest.mark.filterwarnings('ignore:Glyph', 'ignore:constrained_layout')
def test_files_hold_every_name_as_text(tmp_path):
    write_results(RESULTS, tmp_path)
    with open(tmp_path / 'ablation.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [r['variant'].removeprefix("'") for r in rows] == [
        shown(n).removeprefix("'") for n in NAMES
    ]
    assert {r['score'] for r in rows} == {'-1.5'}
    tokens = (
        MarkdownIt('commonmark')
        .enable(['table', 'strikethrough'])
        .parse((tmp_path / 'ablation.md').read_text())
    )
    cells = [t for t in tokens if t.type == 'inline'][1:]  # after the title
    assert len(cells) == 9 * (len(NAMES) + 1)
    assert [''.join(c.content for c in t.children) for t in cells[9::9]] == [
        shown(n).strip() for n in NAMES
    ]
    assert {c.type for t in cells for c in t.children} <= {'text', 'text_special'}
    picture = np.asarray(Image.open(tmp_path / 'ablation.png').convert('L'))
    assert picture.std() > 5


def test_the_table_shows_every_name():
    stream = io.StringIO()
    PlainConsole(file=stream, width=1000).print(summary_table(summarize(RESULTS)))
    text = stream.getvalue()
    assert '$\\frac$ [/]' in text
    assert all(word in text for n in NAMES for word in shown(n, keep='\n').split())
    assert '\x1b' not in text.replace('\\x1b', '')


def test_a_written_trial_is_read_as_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', 'leaked-home')
    seen = []
    monkeypatch.setattr(run, 'run_tool', lambda tool, args, *rest: seen.append(args[0]) or 1.0)
    monkeypatch.setattr(run, 'last_score', lambda folder, metric: 90.0)
    monkeypatch.setattr(run, 'median_step', lambda folder: 0.1)
    config = Config.fromfile(DIGITS)
    config.names = list(NAMES)
    grid = Grid({RUNS: {'load_from': RUNS}, '[/]': {'env_cfg.x': '{{$HOME:}}'}}, (0,))

    def go():
        return run.run_grid(
            config,
            grid,
            tmp_path / '{{$HOME:}}',
            metric='accuracy/top1',
            console=PlainConsole(quiet=True),
        )

    go()
    first, second = map(Config.fromfile, seen)
    assert first.load_from == RUNS
    assert second.env_cfg.x == '{{$HOME:}}'
    assert first.names == second.names == list(NAMES)
    for path in (tmp_path / '{{$HOME:}}').rglob('trial.json'):
        path.unlink()
    go()  # the config that is there is the same
    assert len(seen) == 4
    assert not Path('pwned').exists()


def test_a_key_given_twice_is_refused():
    with pytest.raises(SpecError, match="--vary gives 'a' more than once"):
        grid_from(None, ['a=1,2', 'a=3'])
    with pytest.raises(SpecError, match='more than once') as caught:
        cli.run([str(DIGITS), '--vary', 'a=1,2', '--vary', ' a =1'])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('ablation', 'vary'),
    [
        (dict(variants={'x': dict(a=1), 'y': {'a': 1}}), []),
        (dict(variants={'x': dict(a=1), 'y': dict(a=2)}), ['a=3']),
        (None, ['a={b: 1, c: 2},{c: 2, b: 1}']),
        (None, ['a=1,1']),
        (None, ['x.a=1', 'y.a=2', 'x.a=3']),
    ],
)
def test_twins_are_refused(ablation, vary):
    with pytest.raises(SpecError) as caught:
        grid_from(ablation, vary)
    assert '\n' not in str(caught.value)


def test_names_that_are_shown_alike_are_told_apart():
    grid = grid_from(None, ["a=1,'1 2','12',{type: R},{type: R, b: 1}"])
    assert len(grid.variants) == 5
    assert len(set(map(str, grid.variants))) == 5
    assert [o['a'] for o in grid.variants.values()] == [
        1,
        '1 2',
        '12',
        dict(type='R'),
        dict(type='R', b=1),
    ]


def test_folders_that_a_disk_does_not_tell_apart_are_refused():
    with pytest.raises(SpecError, match='share the folder'):
        Grid({'ReLU': dict(a=1), 'relu': dict(a=2)}, (0,))
