"""What happens around a run: safe loading, the deploy switch, provenance."""
from . import heic_loading, schemes  # noqa: F401
from .bn_recalibration_hook import BNRecalibrationHook
from .class_names_hook import ClassNamesHook
from .coreml_export_hook import CoreMLExportHook
from .deploy_hook import DeploySwitchHook
from .dynamic_regularization_hook import DynamicRegularizationHook
from .ema_load_hook import EMALoadHook
from .epoch_seed_hook import EpochSeedHook
from .throughput_hook import ThroughputHook
from .train_throughput_hook import TrainThroughputHook

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
