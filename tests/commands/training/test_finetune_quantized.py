"""``finetune --quantize`` and ``--teacher``: what is added to a run, and what is refused."""

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext.commands.console.training import finetune_parser
from mmpretrain_mobileone_ext.commands.training.finetune.exporting import check_export, export_words
from mmpretrain_mobileone_ext.commands.training.finetune.quantizing import (
    QUANTIZED,
    add_hooks,
    quantized,
    stored_as,
)
from mmpretrain_mobileone_ext.commands.training.finetune.settings import set_epochs
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.models.quantization import Quantizer, quantizers
from mmpretrain_mobileone_ext.utils.config import MIM

DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'
W4 = MIM / 'configs/quantization/mobileone-tiny_qat-w4_bs64_digits.py'


def recipe(path=DIGITS, epochs=25):
    cfg = Config.fromfile(path)
    set_epochs(cfg, epochs)
    return cfg


def hooks_of(cfg, name):
    return [dict(hook) for hook in cfg.custom_hooks if hook['type'] == name]


def asked(*words):
    return finetune_parser().parse_args(['data', *words])


@pytest.mark.parametrize(
    ('name', 'epochs', 'start'),
    [('8', 30, 20), ('4', 25, 16), ('8a8', 5, 3), ('4a8', 2, 1), ('4', 1, 0)],
)
def test_the_last_third_is_rounded(name, epochs, start):
    cfg = recipe(epochs=epochs)
    others = list(cfg.custom_hooks)
    add_hooks(cfg, name, None)
    weights, activations = QUANTIZED[name]
    assert dict(cfg.custom_hooks[0]) == dict(
        type='QuantizationHook', weights=weights, activations=activations, start=start
    )
    assert list(cfg.custom_hooks[1:]) == others


def test_runs_that_count_iterations_have_shares():
    cfg = recipe()
    cfg.train_cfg = dict(by_epoch=False, max_iters=90)
    add_hooks(cfg, '8', None)
    (hook,) = hooks_of(cfg, 'QuantizationHook')
    assert hook['start'] == pytest.approx(2 / 3)


def test_a_hook_of_the_recipe_gives_way():
    cfg = recipe(W4)
    add_hooks(cfg, '8', None)
    assert [hook['weights'] for hook in hooks_of(cfg, 'QuantizationHook')] == [8]


def test_without_options_a_recipe_stays():
    cfg = recipe(W4)
    before = cfg.pretty_text
    add_hooks(cfg, None, None)
    assert cfg.pretty_text == before


def test_a_teacher_is_found_wherever_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'teacher.py').touch()
    cfg = recipe()
    add_hooks(cfg, None, ['teacher.py', 'https://example.org/teacher.pth'])
    (hook,) = hooks_of(cfg, 'DistillationHook')
    assert hook['teacher'] == str(tmp_path / 'teacher.py')
    assert hook['checkpoint'] == 'https://example.org/teacher.pth'


def test_a_network_without_units_is_refused():
    cfg = recipe()
    cfg.model.backbone = dict(type='ResNet', depth=18)
    with pytest.raises(MobileOneExtError, match='a ResNet has none'):
        add_hooks(cfg, '4', None)


@pytest.mark.parametrize('scheme', ['int8', 'none', 'auto'])
def test_another_scheme_beside_it_is_refused(tmp_path, scheme):
    args = asked('--quantize', '4', '--compress', scheme)
    with pytest.raises(MobileOneExtError, match=f'--compress {scheme} would round them again'):
        check_export(args, tmp_path)


@pytest.mark.parametrize(('name', 'system'), [('8', 'iOS16'), ('8a8', 'iOS17'), ('4', 'iOS18')])
def test_the_export_stores_what_was_trained(tmp_path, name, system):
    args = asked('--quantize', name)
    assert export_words(args, tmp_path) == ['--compress', 'trained', '--deployment-target', system]
    other = asked('--quantize', name, '--format', 'aimodel')
    assert export_words(other, tmp_path) == ['--compress', 'trained']
    assert export_words(asked('--compress', 'int8'), tmp_path) == ['--compress', 'int8']
    assert stored_as(asked()) == {}


def test_the_rehearsal_rounds_as_the_run_ends():
    cfg = recipe()
    add_hooks(cfg, '4a8', None)
    model = quantized(cfg, MODELS.build(cfg.model))
    found = {(own.weights, own.block_size, own.activations) for own in quantizers(model)}
    assert found == {(4, 32, 8), (8, None, 8)}
    assert {own.phase for own in quantizers(model)} == {Quantizer.ON}
    assert not list(quantizers(quantized(recipe(), MODELS.build(recipe().model))))


def test_other_bits_are_told():
    with pytest.raises(MobileOneExtError, match='--quantize: invalid choice'):
        asked('--quantize', '2')
