"""Small models through the whole comparison; figures by independent means."""

import copy
import json

import pytest
import torch
from helpers import classifier_cfg
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.commands.cli import guarded
from mmpretrain_mobileone_ext.commands.compare import run as run_module
from mmpretrain_mobileone_ext.commands.compare import runtimes as onnx_form
from mmpretrain_mobileone_ext.commands.compare.entries import (
    DEFAULT,
    best_top1,
    from_paper,
    pick,
    resolve,
)
from mmpretrain_mobileone_ext.commands.compare.run import run, run_comparison
from mmpretrain_mobileone_ext.commands.compare.runtimes import complexity, deployed, example
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError

BROKEN = dict(type='DeployableClassifier', backbone=dict(type='NoSuch'))


@pytest.fixture
def tiny(tmp_path):
    return write(tmp_path / 'tiny_small.py', classifier_cfg(num_classes=1000))


def write(path, model):
    Config(dict(model=model)).dump(path)
    return str(path)


def bench(path, model):
    path.write_text(
        json.dumps(
            dict(
                schema_version=1,
                date='2026-01-01T00:00:00Z',
                build='release',
                model=dict(name=model, sha256='0' * 64, format='mlprogram', precision='fp16'),
                device=dict(
                    model='iPhone15,2',
                    system='iOS',
                    system_version='17.5',
                    simulator=False,
                    processors=6,
                    memory_mib=5600,
                    low_power_mode=False,
                ),
                compute_units='all',
                warmup=1,
                iterations=2,
                cold_start=dict(load_ms=5, first_prediction_ms=2),
                latency=dict(
                    min_ms=0.5, median_ms=0.75, mean_ms=0.75, p90_ms=0.9, p99_ms=1, max_ms=1
                ),
                throughput=1000,
                footprint={},
                thermal=dict(before='nominal', after='nominal'),
            )
        )
    )
    return path


def test_default_list_is_known():
    entries = resolve(DEFAULT)
    assert len(entries) == 11
    assert all(best_top1(e.published) for e in entries)
    assert all(pick(e.published, 'paper') for e in entries)


def test_accuracy_is_that_of_the_metafile():
    (entry,) = resolve(['mobilenet-v2_8xb32_in1k'])
    assert best_top1(entry.published) == 71.86
    assert pick(entry.published, 'paper').top1 == 72.0
    assert from_paper('never-heard-of') == []


def test_folded_network_is_the_same_and_has_no_norms():
    net = deployed(classifier_cfg(num_classes=1000), 32)
    assert not any('Norm' in type(m).__name__ for m in net.modules())
    assert net(example(32)).shape == (1, 1000)
    assert net(example(32)).dtype == torch.float32


def test_counts_equal_those_by_hand():
    """Convolutions and the head, from their shapes."""
    net = deployed(classifier_cfg(num_classes=1000), 32)
    params = flops = 0
    handles, sizes = [], {}
    for m in net.modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            handles.append(
                m.register_forward_hook(lambda m, _, out: sizes.update({m: out[0].numel()}))
            )
    net(example(32))
    for m, numel in sizes.items():
        taps = m.weight[0].numel()
        params += m.weight.numel() + m.bias.numel()
        flops += numel * taps
    for handle in handles:
        handle.remove()
    found = complexity(net, 32)
    assert found.params == params
    assert abs(found.flops - flops) < 0.05 * flops  # pooling, among others


def test_a_wrong_fold_is_noticed(monkeypatch):
    from mmpretrain_mobileone_ext.commands.compare import runtimes as network

    def broken(model):
        next(model.parameters()).data[0] += 1
        return model

    monkeypatch.setattr(network, 'fuse_conv_bn', broken)
    with pytest.raises(MobileOneExtError, match='the folded network'):
        deployed(classifier_cfg(num_classes=1000), 32)


def test_paper_rounding_of_parameters():
    """S1 as mmpretrain builds it, folded by mmpretrain."""
    (entry,) = resolve(['mobileone-ext-s1_8xb32_in1k'])
    model = MODELS.build(entry.config)
    model.switch_to_deploy()
    theirs = get_model('mobileone-s1_8xb32_in1k')
    theirs.backbone.switch_to_deploy()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_everything_of_a_small_model(tiny, tmp_path, capsys):
    out = tmp_path / 'out'
    argv = [
        tiny,
        '--size',
        '32',
        '--rounds',
        '2',
        '--no-onnx',
        '--out',
        str(out),
        '--bench',
        str(bench(tmp_path / 'b.json', 'tiny')),
    ]
    run(argv)
    assert 'tiny' in capsys.readouterr().out
    document = json.loads((out / 'compare.json').read_text())
    (row,) = document['rows']
    assert row['failure'] is None
    assert row['torch']['runs'] == 2
    assert row['devices'][0]['median_ms'] == 0.75
    assert row['coreml_ops'] > 5
    # fp16: two bytes a parameter, and little else
    assert 2 * row['params'] < row['coreml_bytes'] < 2 * row['params'] + 2e5
    assert 'iPhone15,2 ms' in (out / 'compare.csv').read_text()
    assert '| tiny |' in (out / 'compare.md').read_text()
    assert not (out / 'compare.png').exists()  # nobody published tiny


def test_one_that_fails_leaves_the_others(tiny, tmp_path, capsys):
    bad = write(tmp_path / 'bad.py', BROKEN)
    out = tmp_path / 'out'
    with pytest.raises(MobileOneExtError, match='1 of 2 models failed: bad'):
        run(
            [
                bad,
                tiny,
                '--size',
                '32',
                '--rounds',
                '1',
                '--no-onnx',
                '--no-coreml',
                '--out',
                str(out),
            ]
        )
    capsys.readouterr()
    rows = json.loads((out / 'compare.json').read_text())['rows']
    assert 'NoSuch' in rows[0]['failure']
    assert rows[1]['torch']['median_ms'] > 0
    text = (out / 'compare.md').read_text()
    assert 'NoSuch' in next(x for x in text.splitlines() if '| bad |' in x)


def test_exit_code_of_a_failure(tiny, tmp_path, monkeypatch, capsys):
    bad = write(tmp_path / 'bad.py', BROKEN)
    options = ['--size', '32', '--rounds', '1', '--no-onnx', '--no-coreml']
    assert guarded(lambda: run([tiny, *options])) == 0
    assert guarded(lambda: run([tiny, bad, *options])) != 0
    assert 'NoSuch' in capsys.readouterr().err


def test_a_place_for_nothing_is_refused_before_the_work(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, 'run_comparison', None)
    (tmp_path / 'file').touch()
    with pytest.raises(MobileOneExtError, match='file cannot be written'):
        run([tiny, '--out', str(tmp_path / 'file')])


def test_core_ml_that_differs_fails_its_row(tiny, monkeypatch):
    def refuse(*args, **options):
        raise MobileOneExtError('differs')

    monkeypatch.setattr(run_module, 'coreml_figures', refuse)
    found = run_comparison([tiny], size=32, rounds=1, onnx=False, progress=False)
    assert 'Core ML: MobileOneExtError: differs' in found.rows[0].failure
    assert found.rows[0].torch is not None


def test_missing_onnx_runtime_is_said(tiny, monkeypatch):
    monkeypatch.setattr(run_module, 'missing', lambda: ['onnxruntime'])
    found = run_comparison([tiny], size=32, rounds=1, coreml=False, progress=False)
    assert 'onnxruntime' in found.notes[0]
    assert found.rows[0].onnx is None


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['no-such-model'], "'no-such-model' is neither"),
        (['no.py'], 'no such config file'),
        (['repvgg-A0_8xb32_in1k'] * 2, 'more than once'),
        (['repvgg-A0_8xb32_in1k', '--rounds', '0'], 'rounds=0'),
        (['repvgg-A0_8xb32_in1k', '--size', 'x'], '--help'),
    ],
)
def test_mistakes(argv, words):
    with pytest.raises(SpecError, match=words):
        run(argv)


def test_bench_of_another_model(tiny, tmp_path):
    with pytest.raises(SpecError, match="'other', which is none"):
        run([tiny, '--bench', str(bench(tmp_path / 'b.json', 'other'))])


def test_onnx_runtime_is_timed_and_compared(tiny, monkeypatch):
    for name in ('onnxruntime', 'onnx', 'onnxscript'):
        pytest.importorskip(name)
    options = dict(size=32, rounds=2, coreml=False, progress=False)
    (row,) = run_comparison([tiny], **options).rows
    assert (row.failure, row.onnx.runs) == (None, 2)
    export = onnx_form._export

    def wrong(model, image, path):
        spoiled = copy.deepcopy(model)
        spoiled.head.fc.weight.data.neg_()
        export(spoiled, image, path)

    monkeypatch.setattr(onnx_form, '_export', wrong)
    (row,) = run_comparison([tiny], **options).rows
    assert 'ONNX Runtime against torch' in row.failure
