"""Configurable MobileOne for MMPretrain, exported to Core ML and verified.

Importing this package (``custom_imports = dict(imports=
['mmpretrain_mobileone_ext'])``) registers its modules into mmpretrain's
registries. It imports neither coremltools nor mmdeploy.
"""
from .models import (ConfigurableMobileOne, DeployableClassifier,
                     switch_to_deploy, verified_switch_to_deploy)
from .version import __version__

__all__ = [
    'ConfigurableMobileOne', 'DeployableClassifier', '__version__',
    'switch_to_deploy', 'verified_switch_to_deploy'
]
