"""mmdeploy on the current stack: deploy, verify, compare with our exporter.

mmdeploy is optional and imported only when something is deployed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import compare_exporters
    from .deploy import deploy_classifier
    from .deploy_config import read_deploy_config

__all__ = ['compare_exporters', 'deploy_classifier', 'read_deploy_config']

_HOME = {
    'compare_exporters': '.compare',
    'deploy_classifier': '.deploy',
    'read_deploy_config': '.deploy_config',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOME[name], __name__), name)
