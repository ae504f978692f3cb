"""Networks in branch and folded form."""
from .block import MobileOneBlock
from .classifier import DeployableClassifier
from .mobileone import ConfigurableMobileOne
from .online_table import online_forms, print_online_forms
from .switch import switch_to_deploy, verified_switch_to_deploy
from .sync_norm import CPUSyncBatchNorm

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
