"""The scope ``mmpretrain_mobileone_ext``, a child of mmpretrain's.

mmengine builds what a config inherits from ``mmpretrain_mobileone_ext::...`` in the scope of that
name, and imports this module to find its registries. They hold nothing: this package registers its
modules into mmpretrain's, where every config finds them.
"""

from mmengine.registry import Registry
from mmpretrain import registry as mmpretrain_registry

_SCOPE = __name__.split('.')[0]
_LOCATIONS = [
    f'mmpretrain.{part}' for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization')
]

CHILDREN = {
    name: Registry(parent.name, parent=parent, scope=_SCOPE, locations=_LOCATIONS)
    for name, parent in vars(mmpretrain_registry).items()
    if isinstance(parent, Registry) and parent.scope == 'mmpretrain'
}
