"""Trials are trained once, go on where they were, and never mix."""

import zipfile

import pytest
from mmengine.config import Config
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training.ablation import run
from mmpretrain_mobileone_ext.commands.training.ablation.grid import grid_from
from mmpretrain_mobileone_ext.commands.training.ablation.table import TrialResult
from mmpretrain_mobileone_ext.commands.training.to_phone import sole_use
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.utils.config import MIM

CONFIG = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'
K = 'model.backbone.num_conv_branches'


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training itself; records what was asked for."""
    calls = []

    def run_tool(tool, args, log, title, console):
        calls.append((tool, list(args)))
        return 1.0

    monkeypatch.setattr(run, 'run_tool', run_tool)
    monkeypatch.setattr(run, 'last_score', lambda folder, metric: 90.0)
    monkeypatch.setattr(run, 'median_step', lambda folder: 0.1)
    return calls


def go(out, vary=f'{K}=1,4', **changes):
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(changes)
    return run.run_grid(
        config,
        grid_from(None, [vary], [0, 1]),
        out,
        metric='accuracy/top1',
        console=Console(quiet=True),
    )


def test_each_trial_is_a_config_of_its_own(trained, tmp_path):
    results = go(tmp_path)
    assert [(r.variant, r.seed) for r in results] == [
        (f'num_conv_branches={k}', s) for s in (0, 1) for k in (1, 4)
    ]
    for (tool, args), result in zip(trained, results):
        assert tool == 'train.py'
        assert '--resume' not in args  # nothing is there yet
        cfg = Config.fromfile(args[0])
        assert f'num_conv_branches={cfg.model.backbone.num_conv_branches}' == result.variant
        assert cfg.randomness.seed == result.seed
    one, four = results[:2]
    assert one.deploy_params == four.deploy_params < one.train_params < four.train_params


def test_what_is_done_is_not_done_again(trained, tmp_path):
    first = go(tmp_path)
    (tmp_path / 'num_conv_branches_4/seed1/trial.json').unlink()
    trained.clear()
    assert go(tmp_path) == first
    assert len(trained) == 1
    assert 'num_conv_branches_4' in trained[0][1][0]


@pytest.mark.parametrize(('validated', 'start'), [((1, 2), 'epoch_2.pth'), ((1,), 'epoch_1.pth')])
def test_an_epoch_without_its_score_is_trained_again(trained, tmp_path, validated, start):
    """mmengine saves before it validates, and a kill may come in between."""
    folder = tmp_path / 'num_conv_branches_1/seed0'
    (folder / '20260101/vis_data').mkdir(parents=True)
    (folder / '20260101/vis_data/scalars.json').write_text(
        ''.join(f'{{"accuracy/top1": 9.0, "step": {n}}}\n' for n in validated)
    )
    for n in (1, 2):
        with zipfile.ZipFile(folder / f'epoch_{n}.pth', 'w'):
            pass
    (folder / 'last_checkpoint').write_text('epoch_2.pth')
    go(tmp_path, vary=f'{K}=1', **{'train_cfg.max_epochs': 2})
    assert trained[0][1][-2:] == ['--resume', str(folder / start)]
    assert '--resume' not in trained[1][1]


def test_two_runs_in_one_folder(trained, tmp_path):
    with (
        sole_use(tmp_path, Console(quiet=True)),
        pytest.raises(MobileOneExtError, match='is in use by process'),
    ):
        go(tmp_path)
    assert not trained


def test_runs_of_another_config_are_not_mixed_in(trained, tmp_path):
    go(tmp_path)
    trained.clear()
    with pytest.raises(MobileOneExtError, match='run of another config'):
        go(tmp_path, **{'train_cfg.max_epochs': 3})
    assert not trained


def test_an_option_that_does_not_fit_stops_before_any_training(trained, tmp_path):
    with pytest.raises(SpecError, match='num_conv_branches=-1'):
        go(tmp_path, vary=f'{K}=1,-1')
    with pytest.raises(SpecError, match=r'variant .head=3. cannot be built'):
        go(tmp_path, vary='model.head=3')
    assert not trained
    assert not list(tmp_path.iterdir())


def test_a_failed_training_leaves_no_result(monkeypatch, tmp_path):
    def fails(*args):
        raise MobileOneExtError('train failed')

    monkeypatch.setattr(run, 'run_tool', fails)
    with pytest.raises(MobileOneExtError, match='train failed'):
        go(tmp_path)
    assert not list(tmp_path.rglob('trial.json'))


@pytest.mark.slow
def test_a_real_grid_on_digits(tmp_path):
    from mmpretrain_mobileone_ext.commands.training.ablation.run import run as cli
    from mmpretrain_mobileone_ext.commands.training.demo import write_digits

    data = write_digits(tmp_path / 'digits')
    args = [
        str(CONFIG),
        '--vary',
        f'{K}=1,2',
        '--out',
        str(tmp_path / 'out'),
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=256',
        *(f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')),
    ]
    out = cli(args).parent
    made = sorted(p.name for p in out.glob('[!.]*'))
    assert made == [
        'ablation.csv',
        'ablation.md',
        'ablation.png',
        'num_conv_branches_1',
        'num_conv_branches_2',
    ]
    done = out / 'num_conv_branches_2/seed0/trial.json'
    result = TrialResult.read(done)
    assert 0 <= result.score <= 100
    assert result.step_s > 0
    # A trial that lost its result, as an interrupted one, goes on.
    done.unlink()
    assert cli(args).parent == out
    assert TrialResult.read(done).score == result.score
    log = (done.parent / 'train.log').read_text()
    assert 'Epoch(train) [1]' not in log


@pytest.mark.parametrize(
    ('vary', 'says'),
    [
        ('num_conv_branches=1,4', "no 'num_conv_branches'; did you mean model.backbone.num_conv_"),
        ('model.backbone.num_branches=1,4', 'did you mean model.backbone.num_conv_branches?'),
        ('model.bakbone.num_conv_branches=1,4', 'did you mean model.backbone.num_conv_branches?'),
        ('model.backbone.se_cgf.ratio=4,8', 'did you mean model.backbone.se_cfg?'),
        ('optim_wraper.optimizer.lr=0.1,0.2', 'did you mean optim_wrapper.optimizer.lr?'),
        ('zebra=1,2', "the config has no 'zebra'"),
    ],
)
def test_a_key_that_is_nowhere_is_refused(trained, tmp_path, vary, says):
    with pytest.raises(SpecError) as caught:
        go(tmp_path, vary)
    assert says in str(caught.value)
    assert not trained
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'vary',
    [
        'model.backbone.online_reparam=true,false',  # an argument of its class
        'optim_wrapper.optimizer.nesterov=true,false',  # new in a dict
        'train_dataloader.prefetch_factor=2,4',
        'randomness.deterministic=true,false',
        'resume=true,false',  # of the Runner
        'custom_hooks.0.momentum=0.1,0.2',
    ],
)
def test_a_new_key_in_a_known_dict_is_varied(trained, tmp_path, vary):
    go(tmp_path, vary)
    assert len(trained) == 4


def test_variants_that_are_one_training_are_refused(trained, tmp_path):
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({'width': 1, K: 4})
    variants = {'a': {'width': 2}, 'b': {'width': 3}, 'c': {K: 1}}
    for chosen in ({'a', 'b'}, {'a', 'c', 'b'}):
        grid = grid_from(dict(variants={name: variants[name] for name in sorted(chosen)}))
        with pytest.raises(SpecError, match="variants 'a' and 'b' are the same training"):
            run.run_grid(
                config, grid, tmp_path, metric='accuracy/top1', console=Console(quiet=True)
            )
    assert not trained
