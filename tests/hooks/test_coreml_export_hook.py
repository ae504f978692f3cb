"""The export hook in real runs: what is exported, when, and what is told."""

import json
import random
import re
import shutil
import subprocess
import sys

import coreml_hook_kit as kit
import export_kit
import numpy as np
import pytest
import torch
from coreai_kit import needs_core_ai
from coreml_hook_kit import NOISE, hooks_of_checkpoint, logged, packages, trained
from helpers import assert_same_state, classifier_cfg
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from PIL import Image
from toy_runner import toy_cfg

from mmpretrain_mobileone_ext import exporter as export
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.coreml.runtime.load import load_program
from mmpretrain_mobileone_ext.errors import ExportError, SpecError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.hooks import CoreMLExportHook

EXPORT = dict(type='CoreMLExportHook')
EMA = dict(type='EMAHook', momentum=0.3, priority='ABOVE_NORMAL')
DEPLOY = dict(type='DeploySwitchHook')


def state_of_the_process():
    """Everything that training or a test after it could depend on."""
    cudnn = torch.backends.cudnn
    return dict(
        torch=torch.get_rng_state().tolist(),
        numpy=[str(part) for part in np.random.get_state()],
        python=random.getstate(),
        flags=[
            cudnn.enabled,
            cudnn.benchmark,
            cudnn.deterministic,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
        ],
        grad=torch.is_grad_enabled(),
        dtype=torch.get_default_dtype(),
        threads=torch.get_num_threads(),
    )


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    return export_kit.photos(tmp_path_factory.mktemp('data'), count=8, size=16)


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    """A run with averaged weights that exports the best and the last."""
    folder = tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    runner = trained(
        folder,
        EMA,
        DEPLOY,
        dict(EXPORT, which='both', verify_data='test'),
        test_dataloader=kit.split(photos),
    )
    return runner, folder, state_of_the_process()


def test_the_best_and_the_last_have_a_package(run):
    _, folder, _ = run
    (best,) = folder.glob('best_*[0-9].pth')
    assert {p.stem for p in packages(folder)} == {'epoch_2', best.stem}
    assert not [p for p in folder.iterdir() if '.partial' in p.name]


def oracle(checkpoint, photos, key='state_dict'):
    """Scores (N, 3) of weights in a checkpoint, and labels (N,)."""
    state = load_checkpoint_file(checkpoint)[key]
    if key == 'ema_state_dict':
        state = {
            k.replace('module.', '', 1): v for k, v in state.items() if k.startswith('module.')
        }
    model = MODELS.build(classifier_cfg())
    model.load_state_dict(state)
    paths = export_kit.files(photos)
    images = [export_kit.rgb(p)[..., ::-1].copy() for p in paths]
    labels = [export_kit.CLASSES.index(p.parent.name) for p in paths]
    scores = export_kit.oracle(model, images, [100.0] * 3, [50.0] * 3)
    return scores, torch.tensor(labels)


def executed(package, photos):
    """Scores (N, 3) of a package, image by image."""
    program = load_program(package)
    found = [
        program.predict({'image': Image.open(p)})['classLabel_probs']
        for p in export_kit.files(photos)
    ]
    return torch.tensor([[scores[name] for name in program.classes] for scores in found])


def test_the_package_predicts_as_its_checkpoint(run, photos):
    _, folder, _ = run
    for package in packages(folder):
        wanted, _ = oracle(package.with_suffix('.pth'), photos)
        found = executed(package, photos)
        assert (found - wanted).abs().max() < 2e-3


def test_the_averaged_weights_are_exported(run, photos):
    """mmengine keeps the others under ``ema_state_dict``."""
    _, folder, _ = run
    other, _ = oracle(folder / 'epoch_2.pth', photos, 'ema_state_dict')
    found = executed(folder / 'epoch_2.mlpackage', photos)
    assert (found - other).abs().max() > 5e-3


def top1(checkpoint, photos):
    scores, labels = oracle(checkpoint, photos)
    return 100 * (scores.argmax(1) == labels).double().mean().item()


def test_the_log_states_score_parity_and_size(run, photos):
    _, folder, _ = run
    text = '\n'.join(logged(folder))
    blocks = text.split('CoreMLExportHook: done in')[1:]
    assert len(blocks) == 2
    for block in blocks:
        (package,) = re.findall(r'file: (\S+\.mlpackage)', block)
        wanted = top1(package.replace('.mlpackage', '.pth'), photos)
        figure = rf'{wanted:.2f} % \[\d+\.\d, \d+\.\d\]'
        assert re.search(f'top-1: torch {figure}, Core ML {figure}', block)
        assert 'compared on: all 24 images of the test split' in block
        assert re.search(r'parity: relative \S+, max abs', block)
        assert re.search(r'size: \d+\.\d KiB', block)


def test_the_visualizer_and_the_record_have_the_figures(run, photos):
    _, folder, _ = run
    found = kit.scalars(folder)
    record = json.loads((folder / 'coreml_export.json').read_text())
    assert record.keys() == {p.name for p in packages(folder)}
    for package in packages(folder):
        step = int(package.stem.rpartition('_')[2])
        size = sum(f.stat().st_size for f in package.rglob('*') if f.is_file())
        figures = {
            'coreml/top1': top1(package.with_suffix('.pth'), photos),
            'coreml/size_mib': size / 2**20,
            'coreml/agreement': 100.0,
        }
        assert found[step] == pytest.approx(
            {**figures, 'coreml/relative_error': record[package.name]['relative_error']}
        )
        assert 0 < found[step]['coreml/relative_error'] < 2e-2
        assert record[package.name]['request']['checkpoint'] == f'{package.stem}.pth'


def test_training_and_the_process_are_left_as_without(run, photos, tmp_path):
    runner, folder, after = run
    torch.manual_seed(0)
    without = trained(tmp_path, EMA, DEPLOY, test_dataloader=kit.split(photos))
    assert state_of_the_process() == after
    assert runner.model.training == without.model.training
    assert_same_state(without.model.state_dict(), runner.model.state_dict())
    for name in ('epoch_2.pth', 'epoch_2_deploy.pth'):
        assert_same_state(
            load_checkpoint_file(tmp_path / name)['state_dict'],
            load_checkpoint_file(folder / name)['state_dict'],
        )


# --- resuming ---------------------------------------------------------------
@pytest.fixture
def finished(run, tmp_path):
    """The folder of the finished run, restored after the test."""
    folder = run[1]
    shutil.copytree(folder, tmp_path / 'copy')
    for path in folder.glob('2*'):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / 'copy', folder)


@pytest.fixture
def asked(monkeypatch):
    """What would be exported, without doing it."""
    found = []

    def run_export(cfg, checkpoint, options, *rest):
        found.append(options.out.name)
        raise ExportError('not in this test')

    monkeypatch.setattr(export, 'run_export', run_export)
    return found


def resumed(folder, photos, epochs=2, **changes):
    hook = {**EXPORT, 'which': 'both', 'verify_data': 'test', **changes}
    return trained(
        folder, EMA, DEPLOY, hook, epochs=epochs, resume=True, test_dataloader=kit.split(photos)
    )


def test_a_finished_run_exports_nothing_again(finished, photos, asked):
    resumed(finished, photos)
    assert asked == []
    kept = [line for line in logged(finished) if 'it is kept' in line]
    assert len(kept) == 2


def test_a_finished_run_exports_what_is_missing(finished, photos, asked):
    shutil.rmtree(finished / 'epoch_2.mlpackage')
    resumed(finished, photos)
    assert asked == ['epoch_2.mlpackage']


@pytest.mark.parametrize(
    'change',
    [
        dict(precision='fp32'),
        dict(author='someone'),
        dict(cfg_options={'model.data_preprocessor.mean': [90.0, 90.0, 90.0]}),
    ],
    ids=str,
)
def test_another_request_is_exported_again(finished, photos, asked, change):
    resumed(finished, photos, **change)
    assert len(asked) == 2


def test_another_checkpoint_is_exported_again(finished, photos, asked):
    state = torch.load(finished / 'epoch_2.pth', weights_only=False)
    state['state_dict']['head.fc.bias'] += 1
    torch.save(state, finished / 'epoch_2.pth')
    resumed(finished, photos)
    assert asked == ['epoch_2.mlpackage']


def test_a_run_that_goes_on_exports_its_new_end(finished, photos, asked):
    resumed(finished, photos, epochs=3)
    assert 'epoch_3.mlpackage' in asked
    assert 'epoch_2.mlpackage' not in asked


@pytest.mark.parametrize('text', ['', '[]', '{"epoch_2.mlpackage": 1}'])
def test_a_damaged_record_is_none(finished, photos, asked, text):
    (finished / 'coreml_export.json').write_text(text)
    resumed(finished, photos)
    assert len(asked) == 2


# --- which checkpoint -------------------------------------------------------
def test_the_best_alone_by_default(tmp_path, asked):
    trained(tmp_path, NOISE)
    (best,) = tmp_path.glob('best_*.pth')
    assert asked == [f'{best.stem}.mlpackage']


def test_the_last_where_there_is_no_best(tmp_path, asked):
    trained(tmp_path, NOISE, default_hooks=hooks_of_checkpoint(tmp_path, save_best=None, rule=None))
    assert asked == ['epoch_2.mlpackage']
    assert any('kept no best' in line for line in logged(tmp_path))


@pytest.mark.parametrize('out', ['phone.mlpackage', '{checkpoint}-x.mlmodel'])
def test_the_name_is_the_users(out, tmp_path, asked):
    trained(tmp_path, dict(NOISE, which='last', out=out))
    assert asked == [out.replace('{checkpoint}', 'epoch_2')]


def test_folders_of_options_are_in_the_work_dir(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        export, 'run_export', lambda cfg, checkpoint, options: found.append(options)
    )
    trained(tmp_path, dict(NOISE, which='last', swift='{checkpoint}-swift', report='page'))
    assert found[0].swift == tmp_path / 'epoch_2-swift'
    assert found[0].report == tmp_path / 'page'


@needs_core_ai
def test_an_aimodel_with_its_swift_package(tmp_path, photos):
    """Written for real, images and all."""
    hook = dict(
        EXPORT, which='last', out='phone.aimodel', swift='Phone', strict=True, precision='fp32'
    )
    trained(tmp_path, hook, test_dataloader=kit.split(photos))
    model = tmp_path / 'Phone/Sources/Phone/Model/phone.aimodel'
    assert (model / 'main.mlirb').read_bytes() == (
        tmp_path / 'phone.aimodel/main.mlirb'
    ).read_bytes()
    assert 'CoreAIRuntime.swift' in {f.name for f in (tmp_path / 'Phone').rglob('*.swift')}


@pytest.mark.slow
def test_iterations_are_the_step_of_iteration_based_runs(tmp_path):
    trained(
        tmp_path,
        NOISE,
        default_hooks=hooks_of_checkpoint(
            tmp_path, by_epoch=False, interval=2, save_best=None, rule=None
        ),
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
    )
    found = kit.scalars(tmp_path)
    assert found.keys() == {4}
    # Noise has no labels.
    assert found[4].keys() == {'coreml/agreement', 'coreml/size_mib', 'coreml/relative_error'}


# --- configs and imports ----------------------------------------------------
def test_a_config_with_the_hook_survives_a_dump(tmp_path):
    hook = dict(
        EXPORT,
        which='both',
        out='{checkpoint}.mlmodel',
        image_size=[16, 16],
        cfg_options={'model.head.topk': (1,)},
    )
    cfg = toy_cfg(tmp_path, hook)
    cfg.dump(tmp_path / 'c.py')
    loaded = Config.fromfile(str(tmp_path / 'c.py'))
    assert loaded.custom_hooks == cfg.custom_hooks
    assert Config.fromstring(cfg.pretty_text, '.py').custom_hooks == cfg.custom_hooks
    built = HOOKS.build(loaded.custom_hooks[0])
    assert built.out == '{checkpoint}.mlmodel'


def test_every_option_of_an_export_is_one_of_the_hook():
    hook = CoreMLExportHook(**{'author': 'a', 'license': 'l', 'compute_units': 'CPU_ONLY'})
    assert hook.options == dict(force=True, author='a', license='l', compute_units='CPU_ONLY')
    with pytest.raises(SpecError, match='unknown options nothing; allowed are') as error:
        CoreMLExportHook(nothing=1)
    for name in ExportOptions.__dataclass_fields__:
        assert name in str(error.value)


def test_building_the_hook_imports_no_coremltools():
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'import sys; from mmpretrain_mobileone_ext import CoreMLExportHook; '
            'CoreMLExportHook(); sys.exit("coremltools" in sys.modules or "jinja2" in sys.modules)',
        ],
        check=False,
    )
    assert done.returncode == 0


def test_the_hook_is_registered_under_its_name():
    assert HOOKS.get('CoreMLExportHook') is CoreMLExportHook
