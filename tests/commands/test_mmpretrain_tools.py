"""MMPretrain's own tools on our configs: those that need nothing more."""

import runpy
import sys

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmpretrain_mobileone_ext  # noqa: F401
from mmpretrain_mobileone_ext.commands.cli import mmpretrain_tool
from mmpretrain_mobileone_ext.commands.training.demo import prepare
from mmpretrain_mobileone_ext.utils.config import MIM

CONFIGS = {
    p.stem: p
    for p in sorted((MIM / 'configs').glob('*/*.py'))
    if p.parent.name not in ('_base_', 'mmdeploy')
}
#: Those whose hooks and data differ in kind.
KINDS = [
    'mobileone-tiny_bs64_digits_coreml',
    'mobileone-ext-s2_8xb32_in1k',
    'mobileone-ext-s1_2xb32-acc4_in1k',
    'mobileone-s0_finetune_image-folder',
    'se_fashion-mnist',
]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())


def run(monkeypatch, tool, *args):
    path = mmpretrain_tool(tool)
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
    # As ``python FILE`` does; restored, and what it imports from there kept.
    monkeypatch.syspath_prepend(str(path.parent))
    return runpy.run_path(str(path), run_name='__main__')


@pytest.mark.parametrize('name', KINDS)
def test_vis_scheduler_draws_the_schedule(name, tmp_path, monkeypatch):
    cfg = Config.fromfile(CONFIGS[name])
    batch = cfg.train_dataloader.batch_size
    run(
        monkeypatch,
        'visualization/vis_scheduler.py',
        CONFIGS[name],
        '-d',
        3 * batch,
        '-s',
        tmp_path / 'lr.png',
        '--not-show',
        '--cfg-options',
        f'work_dir={tmp_path / "run"}',
    )
    assert (tmp_path / 'lr.png').stat().st_size > 1000
    assert not [p for p in tmp_path.rglob('*') if p.suffix in ('.pth', '.mlpackage', '.mlmodel')]


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='EpochSeedHook'),
        dict(type='BNRecalibrationHook'),
        dict(type='CoreMLExportHook', strict=True),
        dict(type='ThroughputHook', when=['val', 'test']),
        dict(type='TrainThroughputHook', interval=1, warmup=0),
        dict(type='DynamicRegularizationHook', strength=1.0, phases=[dict(begin=0, dropout=0.5)]),
    ],
)
def test_none_of_our_hooks_stops_it(hook, tmp_path, monkeypatch):
    config = tmp_path / 'one.py'
    cfg = Config.fromfile(CONFIGS['mobileone-tiny_bs64_digits'])
    cfg.custom_hooks = [hook]
    cfg.train_cfg.max_epochs = cfg.param_scheduler[1].end = 2
    cfg.dump(config)
    run(
        monkeypatch,
        'visualization/vis_scheduler.py',
        config,
        '-d',
        640,
        '-s',
        tmp_path / 'lr.png',
        '--not-show',
    )
    assert (tmp_path / 'lr.png').is_file()


@pytest.mark.parametrize('name', KINDS)
def test_tools_get_visualizer_options_without_a_scope(name):
    cfg = Config.fromfile(CONFIGS[name])
    assert cfg.visualizer == dict(
        type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
    )


def test_browse_dataset_writes_images(tmp_path, monkeypatch):
    prepare('digits', tmp_path / 'data')
    run(
        monkeypatch,
        'visualization/browse_dataset.py',
        CONFIGS['mobileone-tiny_bs64_digits'],
        '-o',
        tmp_path / 'shown',
        # Its other modes need a matplotlib older than 3.11.
        '--not-show',
        '-n',
        1,
        '-m',
        'original',
    )
    assert len(list((tmp_path / 'shown').iterdir())) == 1


def test_get_flops_counts_ours(monkeypatch, capsys):
    run(
        monkeypatch,
        'analysis_tools/get_flops.py',
        CONFIGS['mobileone-tiny_bs64_digits'],
        '--shape',
        32,
    )
    assert 'Params' in capsys.readouterr().out


def test_print_config_prints_what_reads_back(tmp_path, monkeypatch, capsys):
    path = CONFIGS['mobileone-tiny_bs64_digits']
    monkeypatch.setenv('COLUMNS', '1000')  # rich breaks no line
    run(monkeypatch, 'misc/print_config.py', path)
    text = capsys.readouterr().out
    copy = tmp_path / 'copy.py'
    copy.write_text(text, 'utf-8')
    assert Config.fromfile(copy).to_dict() == Config.fromfile(path).to_dict()
