"""Our models under their names in mmpretrain's model hub.

Importing this module makes ``list_models('*mobileone-ext*')``,
``get_model('mobileone-ext-s0_8xb32_in1k', pretrained=True)`` and
``inference_model`` know them.
"""
from mmpretrain.apis.model import ModelHub

from .config_scope import MIM

#: What every name of ours begins with.
PREFIX = 'mobileone-ext-'


def register_models() -> None:
    """Add the models of ``model-index.yml``, unless they are there."""
    if not any(name.startswith(PREFIX) for name in ModelHub._models_dict):
        ModelHub.register_model_index(MIM / 'model-index.yml',
                                      config_prefix=MIM)


register_models()
