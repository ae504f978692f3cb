"""In which form a model is evaluated, in a word."""
from __future__ import annotations

from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from .block import MobileOneBlock
from .switch import _foldable_by_itself

#: 'plain' is a network that has nothing to fold.
FORMS = ('branches', 'folded', 'plain', 'Core ML')


def form_of(model: Any) -> str:
    """One of ``FORMS``; of what is inside a wrapper or a TTA model.

    A model is 'branches' as long as any block, ours or of another family
    with a ``switch_to_deploy``, is not folded.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if getattr(model, 'artifact', None) is not None:
        return 'Core ML'
    if any(_has_branches(m) for m in model.modules()):
        return 'branches'
    folded = any(getattr(m, 'deploy', False) is True
                 for m in model.modules())
    return 'folded' if folded else 'plain'


def _has_branches(module: nn.Module) -> bool:
    if isinstance(module, MobileOneBlock):
        return not module.deploy
    # A backbone whose blocks are folded does not know that they are.
    inner = any(callable(getattr(m, 'switch_to_deploy', None))
                for m in module.modules() if m is not module)
    return _foldable_by_itself(module) and not inner
