"""Which files are compared, what each training is, and how results are summed up."""

import inspect
import json

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS

from mmpretrain_mobileone_ext.commands.benchmark.quantization import cells as grid
from mmpretrain_mobileone_ext.commands.benchmark.quantization import run as tool
from mmpretrain_mobileone_ext.commands.benchmark.quantization.cells import Training, cells
from mmpretrain_mobileone_ext.commands.benchmark.quantization.options import (
    RECIPE,
    QuantizationOptions,
)
from mmpretrain_mobileone_ext.commands.benchmark.quantization.table import CellResult, rows
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.export import verify
from mmpretrain_mobileone_ext.utils.text import PlainConsole

OURS = ('float', 'after', 'late', 'branches')


def asked(**options):
    return QuantizationOptions(**{'methods': OURS, **options})


def test_every_method_meets_every_scheme():
    found = list(cells(asked(seeds=(0, 1)), 9))
    assert len(found) == len(set(found)) == 2 * (1 + 3 + 4 + 4)
    assert len({cell.folder for cell in found}) == len(found)
    # A network that is rounded afterwards is the float one.
    trainings = {cell.training.folder for cell in found}
    assert len(trainings) == 2 * (1 + 4 + 4)
    assert {c.compress for c in found if c.method == 'after'} == {'int8', 'w8a8', 'int4'}


def test_every_file_has_as_many_epochs(monkeypatch):
    monkeypatch.setitem(HOOKS._module_dict, 'FoldedQuantizationHook', object)
    for epochs in (2, 9, 12):
        for cell in cells(QuantizationOptions(), epochs):
            start = cell.training.start
            assert cell.training.epochs + (start.epochs if start else 0) == epochs


@pytest.mark.parametrize(('epochs', 'late'), [(9, 6), (2, 1)])
def test_when_rounding_begins(epochs, late):
    hooks = {c.method: c.training.hook for c in cells(asked(schemes=('w4a8',)), epochs)}
    for method, start in (('late', late), ('branches', 0)):
        hook = hooks[method]
        assert hook['start'] == start
        assert (hook['weights'], hook['activations']) == (4, 8)
    assert hooks['float'] is None


def test_the_config_of_a_training(tmp_path):
    recipe = Config.fromfile(RECIPE)
    before = recipe.pretty_text
    hook = dict(type='QuantizationHook', weights=4)
    cfg = Training('late-w4', 2, 6, hook).config(recipe, tmp_path)
    assert recipe.pretty_text == before
    assert cfg.randomness.seed == 2
    assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == 6
    assert cfg.param_scheduler[-1].end == 6
    names = [h['type'] for h in cfg.custom_hooks]
    assert names[:2] == ['EpochSeedHook', 'QuantizationHook']
    assert 'DeploySwitchHook' in names


def test_a_folded_training_begins_with_the_folded_file(tmp_path):
    recipe = Config.fromfile(RECIPE)
    half = Training('half', 0, 3)
    cfg = Training('folded-w4', 0, 3, dict(type='X'), half).config(recipe, tmp_path)
    assert cfg.load_from == str(tmp_path / 'seed0/half/epoch_3_deploy.pth')
    assert cfg.model.backbone.deploy is True
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.01)
    assert [h['type'] for h in cfg.custom_hooks] == ['EpochSeedHook', 'X']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(methods=('none',)), 'methods='),
        (dict(schemes=('w4', 'w4')), 'each of w8, w8a8, w4, w4a8 once'),
        (dict(seeds=(0, 0)), 'different integers'),
        (dict(seeds=(-1,)), 'different integers'),
        (dict(jobs=0), 'jobs'),
        (dict(epochs=-1), 'epochs'),
    ],
)
def test_what_cannot_be_asked(options, words):
    with pytest.raises(SpecError, match=words):
        QuantizationOptions(**options)


def test_a_single_epoch_is_refused():
    with pytest.raises(MobileOneExtError, match='at least 2'):
        list(cells(asked(), 1))


def test_a_hook_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(grid, '_FOLDED', 'NoSuchHook')
    with pytest.raises(MobileOneExtError, match='--methods float after late branches'):
        list(cells(QuantizationOptions(), 9))


def results():
    return [
        CellResult('float', 'fp16', 0, 90.0, 2048),
        CellResult('late', 'w4', 0, 89.0, 1024),
        CellResult('float', 'fp16', 1, 91.0, 2048),
        CellResult('late', 'w4', 1, 89.5, 1024),
    ]


def test_seeds_are_summed_up():
    assert [row[2:] for row in rows(results())] == [
        ['90.50', '0.71', '90.00 to 91.00', '2', '2.0'],
        ['89.25', '0.35', '89.00 to 89.50', '2', '1.0'],
    ]


def test_files_that_were_refused_are_counted():
    refused = CellResult('late', 'w4', 2, None, 0)
    assert list(rows([*results(), refused]))[1][2:] == [
        *('89.25', '0.35', '89.00 to 89.50', '2 of 3', '1.0')
    ]
    assert next(iter(rows([refused])))[2:] == ['\u2013'] * 3 + ['0 of 1', '\u2013']


class Calls(list):
    failing, words = None, 'no more memory'


@pytest.fixture
def ran(monkeypatch):
    """The tools that were started, in place of them: each makes what it would."""
    calls = Calls()

    def run_tool(name, words, log, title, console, epochs=None):
        calls.append((name, title))
        if title == calls.failing:
            raise MobileOneExtError(calls.words)
        if name == 'export_coreml.py':
            out = tool.Path(words[words.index('--out') + 1])
            out.mkdir()
            (out / 'weights').write_bytes(bytes(1000))
        if name == 'test.py':
            out = words[words.index('--out') + 1]
            tool.mmengine.dump({'accuracy/top1': 87.5}, out)
        return 1.0

    monkeypatch.setattr(tool, 'run_tool', run_tool)
    monkeypatch.setattr(tool, 'prepare', lambda name: tool.Path('data') / name)
    return calls


WORDS = ('--epochs', '3', '--methods', 'float', 'after', 'late', '--schemes', 'w4', '--seeds', '0')


@pytest.mark.parametrize('jobs', ['1', '2'])
def test_what_is_done_is_not_done_again(ran, tmp_path, jobs):
    words = [*WORDS, '--out', str(tmp_path / 'out'), '--json', str(tmp_path / 'found.json')]
    tool.run([*words, '--jobs', jobs])
    assert sorted(name for name, _ in ran) == sorted(
        ['train.py'] * 2 + ['export_coreml.py', 'test.py'] * 3
    )
    found = json.loads((tmp_path / 'found.json').read_text())
    assert [(r['method'], r['top1'], r['size_bytes']) for r in found['results']] == [
        ('float', 87.5, 1000),
        ('after', 87.5, 1000),
        ('late', 87.5, 1000),
    ]
    ran.clear()
    tool.run(words)
    assert not ran


def test_a_failed_part_is_done_by_the_same_command(ran, tmp_path):
    words = [*WORDS, '--out', str(tmp_path / 'out')]
    ran.failing = 'seed0/late-w4'
    with pytest.raises(MobileOneExtError, match='no more memory'):
        tool.run(words)
    ran.failing = None
    ran.clear()
    tool.run(words)
    assert [title for name, title in ran if name == 'train.py'] == ['seed0/late-w4']


def test_a_file_that_differs_from_its_network_has_no_score(ran, tmp_path):
    assert tool._DIFFERS in inspect.getsource(verify)
    ran.failing, ran.words = 'seed0/files/late-w4: export', f'nothing is written, {tool._DIFFERS}'
    found = tmp_path / 'found.json'
    tool.run([*WORDS, '--out', str(tmp_path / 'out'), '--json', str(found)])
    results = json.loads(found.read_text())['results']
    assert [r['top1'] for r in results] == [87.5, 87.5, None]
    ran.words = 'no more memory'
    (tmp_path / 'out/seed0/files/late-w4/cell.json').unlink()
    with pytest.raises(MobileOneExtError, match='no more memory'):
        tool.run([*WORDS, '--out', str(tmp_path / 'out')])


def test_another_comparison_is_not_mixed_in(ran, tmp_path):
    words = [*WORDS, '--out', str(tmp_path / 'out')]
    tool.run(words)
    with pytest.raises(MobileOneExtError, match='config of another run'):
        tool.run([*words, '--epochs', '6'])


def test_a_recipe_that_folds_nothing_is_refused_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(HOOKS._module_dict, 'FoldedQuantizationHook', object)
    recipe = tmp_path / 'recipe.py'
    recipe.write_text('train_cfg = dict(max_epochs=4)\ncustom_hooks = []\n')
    options = QuantizationOptions(config=str(recipe), methods=('folded',), out=tmp_path / 'out')
    with pytest.raises(MobileOneExtError, match='DeploySwitchHook folds'):
        tool.compare(options, PlainConsole())
    assert not (tmp_path / 'out').exists()
