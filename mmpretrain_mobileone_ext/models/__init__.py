"""Networks in branch and folded form.

The public names resolve on first use: what a MobileOne can be (``spec``) is known without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOME = {
    'CPUSyncBatchNorm': '.norms',
    'ConfigurableMobileOne': '.mobileone',
    'DeployableClassifier': '.classifier',
    'MobileOneBlock': '.block',
    'online_forms': '.mobileone',
    'print_online_forms': '.mobileone',
    'switch_to_deploy': '.deploy',
    'verified_switch_to_deploy': '.deploy',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
