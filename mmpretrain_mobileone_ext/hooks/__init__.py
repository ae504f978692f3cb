"""The hooks, one a file: what happens around a run."""

import sys

from ..models import preprocessing
from . import bn_recalibration, class_names, coreml_export, deploy
from .bn_recalibration import BNRecalibrationHook
from .class_names import ClassNamesHook
from .coreml_export import CoreMLExportHook
from .deploy import DeploySwitchHook
from .training import dynamic_regularization, ema_load, epoch_seed, throughput
from .training.distillation import DistillationHook
from .training.divergence import DivergenceHook
from .training.dynamic_regularization import DynamicRegularizationHook
from .training.ema_load import EMALoadHook
from .training.epoch_seed import EpochSeedHook
from .training.folded_quantization import FoldedQuantizationHook
from .training.quantization import QuantizationHook
from .training.throughput import ThroughputHook, TrainThroughputHook

__all__ = [
    'BNRecalibrationHook',
    'ClassNamesHook',
    'CoreMLExportHook',
    'DeploySwitchHook',
    'DistillationHook',
    'DivergenceHook',
    'DynamicRegularizationHook',
    'EMALoadHook',
    'EpochSeedHook',
    'FoldedQuantizationHook',
    'QuantizationHook',
    'ThroughputHook',
    'TrainThroughputHook',
]

# Configs that earlier versions wrote into work dirs and checkpoints import modules by the names
# that they had: ``custom_imports``, and types of new-style configs.
_FORMER = f'{__package__.rpartition(".")[0]}.engine'
sys.modules[_FORMER] = sys.modules[__name__]
for _name, _module in dict(
    bn_recalibration_hook=bn_recalibration,
    class_names_hook=class_names,
    coreml_export_hook=coreml_export,
    deploy_hook=deploy,
    dynamic_regularization_hook=dynamic_regularization,
    ema_load_hook=ema_load,
    epoch_seed_hook=epoch_seed,
    heic_loading=preprocessing,
    throughput_hook=throughput,
    train_throughput_hook=throughput,
).items():
    sys.modules[f'{_FORMER}.{_name}'] = _module
