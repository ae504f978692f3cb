"""An interrupted run is gone on with where that is asked for, and no other run is."""

import pytest
import torch
from coreai_kit import needs_core_ai
from mmengine.config import Config
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.finetune import cli
from mmpretrain_mobileone_ext.commands.training.finetune.starting import fetch_weights
from mmpretrain_mobileone_ext.commands.training.to_phone import TrainToPhone
from mmpretrain_mobileone_ext.coreai import extra
from mmpretrain_mobileone_ext.coreml.swift.render import MARK
from mmpretrain_mobileone_ext.errors import CheckpointError, MobileOneExtError
from mmpretrain_mobileone_ext.utils.config import MIM

RECIPE = str(MIM / 'configs/digits/mobileone-tiny_bs64_digits.py')


class KilledError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


class Scene:
    """Runs whose steps are replaced by ``do``."""

    def __init__(self, root, monkeypatch):
        self.data, self.work = root / 'data', root / 'work'
        for path in ('cat/1', 'cat/2', 'dog/1', 'dog/2'):
            self.add(path)
        self.seen = []
        self.do = self.kill
        monkeypatch.setattr(cli, 'print_results', lambda *given: None)
        monkeypatch.setattr(TrainToPhone, 'run', lambda steps: self.do(steps))
        monkeypatch.setattr(cli, 'fetch_weights', lambda weights: None)
        self.rehearsed = 0
        monkeypatch.setattr(cli, 'rehearse', self.rehearse)

    def add(self, path):
        file = self.data / f'{path}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8)).save(file)

    def rehearse(self, cfg, package, **stored):
        self.rehearsed += 1

    def kill(self, steps):
        self.seen.append(steps.record.done)
        steps.record = steps.record.with_step(f'step {len(self.seen)}')
        raise KilledError

    def finish(self, steps):
        steps.record.as_finished()
        return []

    def go(self, *args):
        cli.run([str(self.data), '--config', RECIPE, '--work-dir', str(self.work), *args])

    def refused(self, words, *args):
        before = {p: p.read_bytes() for p in self.work.iterdir() if not p.name.startswith('.')}
        with pytest.raises(MobileOneExtError, match=words):
            self.go(*args)
        assert before == {p: p.read_bytes() for p in before}


def interrupt(scene, *args):
    with pytest.raises(KilledError):
        scene.go(*args)


def test_an_interrupted_run_goes_on(scene):
    interrupt(scene, '--epochs', '3')
    interrupt(scene, '--epochs', '3', '--resume')
    assert scene.seen == [(), ('step 1',)]
    assert scene.rehearsed == 1


def test_mmengine_writes_a_config_over_ours(scene):
    interrupt(scene)
    (scene.work / 'finetune.py').write_text('launcher = "none"')
    interrupt(scene, '--resume')
    assert scene.seen[1] == ('step 1',)


def test_going_on_is_asked_for(scene):
    interrupt(scene)
    scene.refused('holds this run, interrupted; give --resume to go on with it, or --force')
    assert scene.seen == [()]


def test_what_failed_before_anything_was_trained_forces_nobody(scene, monkeypatch):
    """A download that fails, say: the next command, with other options too, begins anew."""

    def fail(steps):
        raise MobileOneExtError('train failed: no such host')

    scene.do = fail
    with pytest.raises(MobileOneExtError, match='no such host'):
        scene.go('--weights', 'https://nowhere.invalid/a.pth')
    scene.do = scene.kill
    interrupt(scene, '--weights', 'b.pth')
    assert scene.seen == [()]


def test_a_run_with_a_checkpoint_is_worth_being_asked_for(scene, tmp_path):
    scene.do = lambda steps: torch.save({}, scene.work / 'epoch_1.pth')
    scene.go()
    (scene.work / 'last_checkpoint').write_text(str(scene.work / 'epoch_1.pth'))
    scene.refused('give --resume')


def test_resume_begins_where_there_is_nothing(scene):
    interrupt(scene, '--resume')
    assert scene.seen == [()]


def test_another_run_is_not_mixed_in(scene):
    interrupt(scene)
    for args, words in (
        (['--lr', '0.5'], 'lr'),
        (['--image-size', '48'], 'recipe, image_size'),
        (['--epochs', '4'], 'epochs'),
        (['--frozen-stages', '2'], 'frozen_stages'),
        (['--weights', 'x.pth'], 'weights'),
        (['--cfg-options', 'train_dataloader.batch_size=3'], 'recipe'),
    ):
        scene.refused(f'holds an earlier run with other {words}; choose', *args)
    scene.add('cat/3')
    scene.refused('holds an earlier run with other images')


def test_what_is_skipped_belongs_to_a_run(scene):
    interrupt(scene)
    (scene.data / 'cat/broken.png').write_bytes(b'<html>')
    scene.refused('holds an earlier run with other images')


def test_a_finished_run_is_refused_before_images_are_opened(scene, monkeypatch):
    scene.do = scene.finish
    scene.go()
    monkeypatch.setattr(cli, 'read_folder', None)
    scene.refused('which is finished')


def test_a_finished_run_stays(scene):
    scene.do = scene.finish
    scene.go()
    scene.refused('holds an earlier run, which is finished; give --resume')


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['--format', 'onnx'], r'model\.onnx'),
        (['--format', 'aimodel', '--compress', 'w8a8'], 'in its weights only'),
        (['--compress', 'int9'], "'int9'"),
        (['--compress', 'palettize3'], 'deployment target'),
        (['--swift', 'no such/folder'], 'does not exist'),
        (['--swift', 'data'], 'neither replace nor hold'),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything(scene, args, words, monkeypatch):
    monkeypatch.setattr(cli, 'read_config', None)
    monkeypatch.chdir(scene.data.parent)
    with pytest.raises(MobileOneExtError, match=words):
        scene.go(*args)
    assert not scene.work.exists()


def test_another_folder_is_no_swift_package_to_replace(scene, tmp_path):
    (tmp_path / 'kit').mkdir()
    (tmp_path / 'kit/Package.swift').write_text('// ours? no\n')
    for more in ((), ('--force',)):
        with pytest.raises(MobileOneExtError, match='exists'):
            scene.go('--swift', str(tmp_path / 'kit'), *more)


def test_a_package_of_the_run_itself_hides_no_word_on_how_to_go_on(scene, tmp_path):
    kit = tmp_path / 'Kit'

    def export(steps):
        (scene.work / 'last_checkpoint').write_text(str(scene.work / 'epoch_1.pth'))
        torch.save({}, scene.work / 'epoch_1.pth')
        kit.mkdir()
        (kit / 'Package.swift').write_text(MARK)

    scene.do = export
    scene.go('--swift', str(kit))
    scene.refused('give --resume', '--swift', str(kit))


def failed_export(scene, *args):
    """A run whose training is done and whose export fails."""

    def fail(steps):
        steps.record = steps.record.with_step('train').with_step('test branches')
        raise MobileOneExtError('export failed: too much is lost')

    scene.do = fail
    with pytest.raises(MobileOneExtError, match='the training is done and kept: give --resume'):
        scene.go(*args)


def test_another_export_needs_no_other_training(scene, tmp_path):
    failed_export(scene, '--compress', 'palettize4')
    scene.do = scene.kill
    interrupt(scene, '--compress', 'int8', '--swift', str(tmp_path / 'Kit'), '--resume')
    interrupt(scene, '--compress', 'int8', '--swift', str(tmp_path / 'Kit'), '--resume')
    assert scene.seen == [('train', 'test branches'), ('train', 'test branches', 'step 1')]
    scene.refused('with other epochs;', '--epochs', '7', '--resume')


@needs_core_ai
def test_another_format_needs_no_other_training(scene):
    seen = []
    failed_export(scene)

    def look(steps):
        seen.append((steps.record.done, steps.package, steps.export))
        return scene.finish(steps)

    scene.do = look
    scene.go('--format', 'aimodel', '--swift', '--resume')
    swift = ['--swift', str(scene.work / 'swift')]
    assert seen == [(('train', 'test branches'), scene.work / 'model.aimodel', swift)]


def test_without_the_extra_its_format_is_refused(scene, monkeypatch):
    monkeypatch.setattr(extra, 'find_spec', lambda name: None)
    with pytest.raises(MobileOneExtError, match=r'coreai-torch is missing.*\[coreai\]'):
        scene.go('--format', 'aimodel')
    assert not scene.work.exists()


def test_an_export_that_was_made_is_made_again(scene):
    def export(steps):
        for step in ('train', 'export', 'test coreml', 'report'):
            steps.record = steps.record.with_step(step)
        raise KilledError

    scene.do = export
    interrupt(scene)
    scene.do = scene.kill
    interrupt(scene, '--compress', 'int8', '--resume')
    assert scene.seen == [('train',)]


def test_a_finished_run_is_shown_again(scene):
    scene.do = scene.finish
    scene.go()
    scene.do = lambda steps: scene.seen.append(steps.record.finished)
    scene.go('--resume')
    assert scene.seen == [True]
    scene.refused('with other lr;', '--lr', '0.5', '--resume')


@pytest.mark.parametrize('more', [(), ('--resume',)])
def test_another_file_of_a_finished_run_is_made_by_an_export(scene, more, monkeypatch):
    monkeypatch.setattr('sys.argv', ['mobileone-ext finetune'])
    scene.do = scene.finish
    scene.go()
    made = r'made by: mobileone-ext export .*finetune.py CHECKPOINT --out .*app.mlpackage '
    scene.refused(f'{made}--compress int8$', '--compress', 'int8', *more)


def test_weights_are_fetched_before_images_are_opened(scene, monkeypatch):
    monkeypatch.setattr(cli, 'fetch_weights', fetch_weights)
    monkeypatch.setattr(cli, 'read_folder', None)
    for weights in ('http://127.0.0.1:9/a.pth', 'nowhere.pth'):
        with pytest.raises(CheckpointError, match=r'give a file by --weights FILE, or .*--from-sc'):
            scene.go('--weights', weights)


def test_a_run_without_a_record_stays(scene):
    scene.work.mkdir()
    (scene.work / 'finetune.py').touch()
    scene.refused('holds an earlier run; choose')


def test_force_starts_anew(scene):
    interrupt(scene)
    (scene.work / 'last_checkpoint').write_text('epoch_9.pth')
    interrupt(scene, '--force')
    assert not (scene.work / 'last_checkpoint').exists()
    assert scene.seen == [(), ()]


def test_a_mistake_can_be_mended(scene):
    """What fails before the first step leaves no run behind."""
    with pytest.raises(MobileOneExtError, match='epochs=0'):
        scene.go('--epochs', '0')
    interrupt(scene, '--epochs', '2')


def test_two_at_once(scene):
    def second(steps):
        with pytest.raises(MobileOneExtError, match='is in use by process'):
            scene.go()
        raise KilledError

    scene.do = second
    interrupt(scene)


def test_options_reach_the_steps_and_the_config(scene):
    def look(steps):
        scene.steps = steps
        return scene.finish(steps)

    scene.do = look
    scene.go('--from-scratch', '--image-size', '48', '--swift', '--compress', 'int8', '--lr', '0.5')
    cfg = Config.fromfile(scene.steps.config)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.test_dataloader.dataset.pipeline[1].scale == 48
    assert scene.steps.folds
    assert scene.steps.export == ['--compress', 'int8', '--swift', str(scene.work / 'swift')]
    assert scene.steps.report == 'test'
    assert scene.steps.package == scene.work / 'model.mlpackage'


def test_a_network_of_the_hub_is_trained_without_being_folded(scene):
    def look(steps):
        scene.steps = steps
        return scene.finish(steps)

    scene.do = look
    scene.go('--arch', 'resnet18_8xb32_in1k', '--from-scratch')
    cfg = Config.fromfile(scene.steps.config)
    assert (cfg.model.backbone.type, cfg.model.head.num_classes) == ('ResNet', 2)
    assert not any(hook.type == 'DeploySwitchHook' for hook in cfg.custom_hooks)
    assert not scene.steps.folds
    assert cfg.load_from is None


def test_weights_and_none_are_no_pair(scene):
    with pytest.raises(MobileOneExtError, match='not allowed with'):
        scene.go('--weights', 'a.pth', '--from-scratch')
    with pytest.raises(MobileOneExtError, match='not allowed with'):
        scene.go('--resume', '--force')
