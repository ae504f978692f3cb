"""The hooks, one a file: what happens around a run."""

from .bn_recalibration import BNRecalibrationHook
from .class_names import ClassNamesHook
from .coreml_export import CoreMLExportHook
from .deploy import DeploySwitchHook
from .dynamic_regularization import DynamicRegularizationHook
from .ema_load import EMALoadHook
from .epoch_seed import EpochSeedHook
from .throughput import ThroughputHook, TrainThroughputHook

__all__ = [
    'BNRecalibrationHook',
    'ClassNamesHook',
    'CoreMLExportHook',
    'DeploySwitchHook',
    'DynamicRegularizationHook',
    'EMALoadHook',
    'EpochSeedHook',
    'ThroughputHook',
    'TrainThroughputHook',
]
