"""Each option of everything that has some, times values of a wrong type.

Options are read from signatures: one without a kind below fails, and so does one that takes a value
of another kind.
"""

import inspect
import math

import numpy as np
import pytest
import torch
from helpers import TINY_BACKBONE
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext import (
    ClassNamesHook,
    ConfigurableMobileOne,
    CoreMLClassifier,
    switch_to_deploy,
)
from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.commands.checkpoints.convert import convert_checkpoint
from mmpretrain_mobileone_ext.commands.checkpoints.recalibrate import recalibrate_checkpoint
from mmpretrain_mobileone_ext.commands.mmdeploy.deploy_config import DeployOptions
from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.hooks import (
    BNRecalibrationHook,
    CoreMLExportHook,
    DeploySwitchHook,
    DistillationHook,
    DivergenceHook,
    DynamicRegularizationHook,
    ThroughputHook,
)
from mmpretrain_mobileone_ext.hooks.training.dynamic_regularization import Phase
from mmpretrain_mobileone_ext.hooks.training.ema_load import EMALoadHook
from mmpretrain_mobileone_ext.hooks.training.epoch_seed import EpochSeedHook
from mmpretrain_mobileone_ext.hooks.training.folded_quantization import FoldedQuantizationHook
from mmpretrain_mobileone_ext.hooks.training.quantization import QuantizationHook
from mmpretrain_mobileone_ext.hooks.training.throughput import TrainThroughputHook
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.classifier import DeployableClassifier
from mmpretrain_mobileone_ext.models.norms import CPUSyncBatchNorm
from mmpretrain_mobileone_ext.models.spec import UnitSpec
from mmpretrain_mobileone_ext.utils import checks as option_checks
from mmpretrain_mobileone_ext.utils.parity import fold_tolerance

PACKAGE = 'mmpretrain_mobileone_ext'
THING = object()
#: Kinds of options, each with values that it never takes.
SWITCH = ('no', 'off', 'False', 'true', '', 0, 1, 1.0, None, np.True_, np.False_, (), [True], THING)
COUNT = ('3', '', -1, 1.5, math.nan, math.inf, True, False, np.int64(3), [1.5], b'1', {}, THING)
#: A number that may be spelled, as a command line has it.
SPELLED = (*COUNT[1:], 0)
NUMBER = ('x', '0.5', math.nan, math.inf, -math.inf, -1, True, [1], 1j, np.float32(1), {}, THING)
NAME = ('other', '', 3, True, b'x', ['ALL'], {}, math.nan, THING)
NAMES = ('val', '', (), ['other'], [['val']], ['val', 'val'], 3, True, [THING], THING)
TEXT = (3, True, b'x', ['x'], {}, math.nan, THING)
PATH = (3, True, b'x', 'a\0b', ['x'], {}, math.nan, THING)
LIST = (3, True, 'x', {}, math.nan, [THING], THING)
CFG = ('x', 3, True, [1], {1: 2}, math.nan, THING)
LAYER = (*CFG, dict(type='ReLU', inplace='no'), dict(type='BN', affine='Off'))
FREE = (THING,)
#: Checked by the class that it is handed on to, of mmengine or torch.
FOREIGN = ()

HOOK_EXPORT = {
    'which': NAME,
    'out': (*PATH, 'a/b.mlpackage', '', None),
    'strict': SWITCH,
    'cfg_options': CFG,
    'options': FOREIGN,
}
EXPORT = {
    'precision': NAME,
    'verify_arithmetic': NAME,
    'deployment_target': NAME,
    'compute_units': NAME,
    'input': NAME,
    'outputs': NAME,
    'compress': NAME,
    'max_drop': (*NUMBER, 101),
    'classes': (3, True, b'x', [1], {}, THING),
    'image_size': (*SPELLED, [8, 8, 8], 8193),
    'extra_sizes': LIST,
    'batch_sizes': (*LIST, [1.5], [True], [0]),
    'verify_data': (*SPELLED, 'train'),
    'swift': PATH,
    'report': PATH,
    'force': SWITCH,
    'author': TEXT,
    'license': TEXT,
    'model_version': TEXT,
    'description': TEXT,
}
STAGES = (*COUNT, [], ['x', 'y'])

OWNERS = {
    ConfigurableMobileOne: {
        'arch': (3, 's9', True, [], b's0', {}, dict(depth=3), THING),
        'num_conv_branches': STAGES,
        'num_blocks': (*STAGES, 0),
        'width_factor': ('x', math.nan, math.inf, True, -1, {}, THING),
        'base_channels': (*STAGES, 0),
        'stem_channels': (*COUNT, 0),
        'stem_stride': (*COUNT, 0),
        'stem_num_conv_branches': COUNT,
        'strides': (*STAGES, 0),
        'act_cfg': LAYER,
        'se_cfg': CFG,
        'branches': NAMES,
        'in_channels': (*COUNT, 0),
        'out_indices': ('x', 9, 1.5, True, [], ['x'], {}, THING),
        'frozen_stages': ('x', 9, -2, 1.5, True, None, [], THING),
        'output_stride': (*COUNT, 0),
        'dilations': (*STAGES, 0),
        'conv_cfg': LAYER,
        'norm_cfg': LAYER,
        'norm_eval': SWITCH,
        'deploy': SWITCH,
        'with_cp': SWITCH,
        'online_reparam': ('no', '', 'True', 0, 1, None, np.True_, [], THING),
        'init_cfg': FOREIGN,
    },
    MobileOneBlock: {
        'spec': FOREIGN,
        'conv_cfg': LAYER,
        'norm_cfg': LAYER,
        'deploy': SWITCH,
        'with_cp': SWITCH,
        'online_reparam': ('no', '', 1, None, THING),
        'init_cfg': FOREIGN,
    },
    UnitSpec: {
        'name': TEXT,
        'in_channels': COUNT,
        'out_channels': COUNT,
        'kernel_size': (*COUNT, 2),
        'stride': (*COUNT, 0),
        'dilation': (*COUNT, 0),
        'groups': (*COUNT, 0),
        'num_conv_branches': COUNT,
        'branches': NAMES,
        'se_cfg': LAYER,
        'act_cfg': LAYER,
    },
    CPUSyncBatchNorm: {
        'num_features': (*COUNT, 0),
        'eps': NUMBER,
        'momentum': (*NUMBER, 2),
        'affine': SWITCH,
        'track_running_stats': SWITCH,
        'device': FOREIGN,
        'dtype': FOREIGN,
    },
    CoreMLClassifier: {
        'path': PATH,
        'normalize': tuple(v for v in SWITCH if v is not None),
        'arithmetic': NAME,
        'chip': NAME,
        'backend': NAME,
        'compute_units': NAME,
        'sample': (*COUNT, 0),
        'data_preprocessor': CFG,
        'network': FOREIGN,
    },
    # mmpretrain's arguments, which are configs of modules.
    DeployableClassifier: {'args': FOREIGN, 'sample': (*COUNT, 0), 'kwargs': FOREIGN},
    ClassNamesHook: {},
    DeploySwitchHook: {'when': NAMES, 'tolerance': NUMBER},
    CoreMLExportHook: HOOK_EXPORT,
    DynamicRegularizationHook: {
        'strength': NUMBER,
        'phases': ('x', 3, True, {}, [3], [{1: 2}], [dict(end=3)], THING),
    },
    BNRecalibrationHook: {'images': (*COUNT, 0), 'augment': SWITCH},
    ThroughputHook: {'warmup': COUNT, 'when': NAMES},
    TrainThroughputHook: {'interval': (*COUNT, 0), 'warmup': COUNT},
    EMALoadHook: {},
    DivergenceHook: {'factor': (*NUMBER, 0.5), 'patience': (*COUNT, 0), 'floor': NUMBER},
    EpochSeedHook: {},
    DistillationHook: {
        'teacher': (3, True, b'x', ['x'], math.nan, THING),
        'checkpoint': TEXT,
        'temperature': (*NUMBER, 0.5),
        'weight': (*NUMBER, 1.5),
    },
    FoldedQuantizationHook: {'preset': NAME, 'start': COUNT},
    QuantizationHook: {
        'weights': (*COUNT, 3, 8.0),
        'activations': ('x', 4, 8.0, True, [], {}, math.nan, THING),
        'start': (*NUMBER, 1.0),
        'freeze_stats': ('x', -1, 1.0, True, [], {}, math.nan, math.inf, THING),
        'observer': NAME,
        'block_size': (*COUNT, 0),
        'sensitive': (*COUNT, None, 3, 8.0),
    },
    Phase: {
        'begin': ('x', -1, math.nan, 1.5, True, None, [], THING),
        'resolution': (*COUNT, 0),
        'magnitude': NUMBER,
        'label_smoothing': (*NUMBER, 1),
        'dropout': (*NUMBER, 1),
    },
    ExportOptions: {**EXPORT, 'out': (*PATH, '', None, 'a.onnx')},
    export_coreml: {
        **EXPORT,
        'config': FOREIGN,
        'checkpoint': PATH,
        'out': (*PATH, '', None),
        'cfg_options': CFG,
        'progress': SWITCH,
    },
    DeployOptions: {
        'out': (*PATH, '', None),
        'image_size': SPELLED,
        'verify_data': (*SPELLED, 'train'),
        'force': SWITCH,
    },
    recalibrate_checkpoint: {
        'config': FOREIGN,
        'checkpoint': FOREIGN,
        'out': FOREIGN,
        'images': (*COUNT, 0),
        'augment': SWITCH,
        'force': SWITCH,
        'progress': SWITCH,
    },
    switch_to_deploy: {'model': FOREIGN, 'inplace': SWITCH},
    fold_tolerance: {'dtype': FOREIGN, 'given': NUMBER},
    convert_checkpoint: {
        'source': FOREIGN,
        'to': NAME,
        'out': FOREIGN,
        'arch': FOREIGN,
        'fold': SWITCH,
        'force': SWITCH,
    },
    write_deploy_file: {
        'model': FOREIGN,
        'checkpoint': FOREIGN,
        'out': FOREIGN,
        'inputs': FOREIGN,
        'tolerance': FOREIGN,
        'config_text': FOREIGN,
        'force': SWITCH,
    },
}
#: Options without a default.
NEEDED = {
    ConfigurableMobileOne: lambda: {k: v for k, v in TINY_BACKBONE.items() if k != 'type'},
    MobileOneBlock: lambda: dict(spec=UnitSpec('u', 4, 4, 3)),
    UnitSpec: lambda: dict(name='u', in_channels=4, out_channels=4, kernel_size=3),
    CPUSyncBatchNorm: lambda: dict(num_features=4),
    DistillationHook: lambda: dict(teacher='none.py', checkpoint='none.pth'),
    ExportOptions: lambda: dict(out='model.mlpackage'),
    export_coreml: lambda: dict(config='none.py', out='model.mlpackage'),
    DeployOptions: lambda: dict(out='model.mlpackage'),
    recalibrate_checkpoint: lambda: dict(config='none.py', checkpoint='none.pth', out='out.pth'),
    switch_to_deploy: lambda: dict(model=None),
    fold_tolerance: lambda: dict(dtype=torch.float32),
    convert_checkpoint: lambda: dict(source='none.pth', to='apple', out='out.pth'),
    write_deploy_file: lambda: dict(model=None, checkpoint='none.pth'),
}
#: A bound on a drop is for compressed files alone.
WITH = {(owner, 'max_drop'): dict(compress='int8') for owner in (ExportOptions, export_coreml)}


def given(owner, **changes):
    return {**NEEDED.get(owner, dict)(), **changes}


def options(owner):
    return {name for name in inspect.signature(owner).parameters}


def test_everything_that_is_registered_is_here():
    registered = {
        cls
        for registry in (HOOKS, MODELS)
        for cls in registry.module_dict.values()
        if cls.__module__.split('.')[0] == PACKAGE
    }
    assert len(registered) > 9
    assert registered <= set(OWNERS)


@pytest.mark.parametrize('owner', OWNERS, ids=lambda o: o.__name__)
def test_every_option_has_a_kind(owner):
    assert set(OWNERS[owner]) == options(owner)


@pytest.mark.parametrize(
    ('owner', 'option'),
    [
        pytest.param(owner, option, id=f'{owner.__name__}-{option}')
        for owner, kinds in OWNERS.items()
        for option, wrong in kinds.items()
        if wrong
    ],
)
def test_values_of_another_kind_are_refused(owner, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in OWNERS[owner][option]:
        changes = {**WITH.get((owner, option), {}), option: value}
        with pytest.raises(MobileOneExtError) as error:
            owner(**given(owner, **changes))
        said = str(error.value)
        assert '\n' not in said, value
        assert len(said) < 1500, value
        names = (option, option.rstrip('s'), 'no output', 'suffix', 'tolerance')
        assert any(name in said for name in names), (value, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('option', [k for k, v in EXPORT.items() if v])
def test_the_hook_checks_the_exporters_options_when_it_is_built(option):
    for value in EXPORT[option]:
        if (option, value) in (('swift', ''), ('report', '')):
            continue
        more = dict(compress='int8') if option == 'max_drop' else {}
        with pytest.raises(MobileOneExtError, match='CoreMLExportHook') as e:
            CoreMLExportHook(**{**more, option: value})
        assert option in str(e.value)


@pytest.mark.parametrize('folder', ['/etc', '../out', 'a/../../b', '', '.'])
def test_folders_of_the_hook_stay_in_the_work_dir(folder):
    for option in ('swift', 'report'):
        with pytest.raises(SpecError, match=f'{option} is .*work dir'):
            CoreMLExportHook(**{option: folder})


GOOD = [
    (
        ConfigurableMobileOne,
        dict(norm_eval=True, deploy=True, with_cp=False, norm_cfg=dict(type='CPUSyncBN')),
    ),
    (ConfigurableMobileOne, dict(act_cfg=None, se_cfg=dict(bias='auto'))),
    (CPUSyncBatchNorm, dict(momentum=None, eps=np.float64(1e-3))),
    (CoreMLClassifier, dict(normalize=False, arithmetic='fp32')),
    (DeploySwitchHook, dict(when=['val'], tolerance=0)),
    (DynamicRegularizationHook, dict(strength=0)),
    (
        CoreMLExportHook,
        dict(which='both', strict=True, classes=['a', 'b'], swift='app', author='me'),
    ),
    (
        ExportOptions,
        dict(
            image_size='224',
            batch_sizes=['2'],
            verify_data='7',
            extra_sizes=('8x9', [10, 12]),
            input='tensor',
        ),
    ),
    (DeployOptions, dict(image_size=['8', '9'], verify_data='test')),
]


@pytest.mark.parametrize(
    ('owner', 'options'), GOOD, ids=lambda v: getattr(v, '__name__', str(v)[:40])
)
def test_what_is_allowed_is_taken(owner, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert owner(**given(owner, **options))


@pytest.mark.parametrize('word', ['no', 'off', 'yes', '1', 'deploy'])
def test_the_command_lines_words_do_not_fold_a_network(word):
    from mmengine.config import Config
    from mmengine.config.config import DictAction

    cfg = Config(dict(model=dict(TINY_BACKBONE)))
    cfg.merge_from_dict({'model.deploy': DictAction._parse_iterable(word)})
    with pytest.raises(SpecError, match=r'deploy is .*; allowed: True, False'):
        MODELS.build(cfg.model)
    cfg.merge_from_dict({'model.deploy': DictAction._parse_iterable('False')})
    assert not MODELS.build(cfg.model).deploy


def test_a_message_is_short_whatever_the_value():
    with pytest.raises(SpecError) as error:
        option_checks.boolean('x', 'line\n' * 10_000)
    assert len(str(error.value)) < 300
