"""Networks in branch and folded form."""

from .block import MobileOneBlock
from .classifier import DeployableClassifier
from .deploy import switch_to_deploy, verified_switch_to_deploy
from .mobileone import ConfigurableMobileOne, online_forms, print_online_forms
from .norms import CPUSyncBatchNorm

__all__ = [
    'CPUSyncBatchNorm',
    'ConfigurableMobileOne',
    'DeployableClassifier',
    'MobileOneBlock',
    'online_forms',
    'print_online_forms',
    'switch_to_deploy',
    'verified_switch_to_deploy',
]
