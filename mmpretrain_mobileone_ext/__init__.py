"""Configurable MobileOne for MMPretrain, exported to Core ML and verified.

Importing this package, as ``custom_imports = dict(imports=['mmpretrain_mobileone_ext'])`` does,
registers its modules into mmpretrain's registries and its models in the model hub, makes checkpoint
loading and the writing of configs safe, and has class names compared in every run; mmengine then
finds ``mmpretrain_mobileone_ext::`` configs. It imports neither coremltools nor mmdeploy.
"""

import warnings

with warnings.catch_warnings():
    # mmcv-lite says so whenever it is imported; nothing here uses that op.
    warnings.filterwarnings('ignore', r'\s*Fail to import ``MultiScaleDeformableAttention``')
    try:
        import mmpretrain.models  # noqa: F401
    # An incompatible version asserts, a home that is missing is an error of the runtime: any type.
    except Exception as reason:
        from .utils.doctor.failed_import import stop_import

        stop_import(reason)

from . import hooks
from .checkpoints import download as _safe_loading  # noqa: F401
from .coreai import format as _core_ai  # noqa: F401
from .coreml.classifier import CoreMLClassifier
from .hooks import *  # noqa: F403
from .models import (
    ConfigurableMobileOne,
    DeployableClassifier,
    switch_to_deploy,
    verified_switch_to_deploy,
)
from .models import preprocessing as _heic_loading  # noqa: F401
from .utils import config as _safe_configs  # noqa: F401
from .utils.version import __version__

__all__ = [
    *hooks.__all__,
    'ConfigurableMobileOne',
    'CoreMLClassifier',
    'DeployableClassifier',
    '__version__',
    'switch_to_deploy',
    'verified_switch_to_deploy',
]
