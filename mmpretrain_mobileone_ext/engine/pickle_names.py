"""The table of names a checkpoint's pickle may ask for."""
from typing import Any, Dict, Iterator, Tuple

import torch
from mmengine.logging import HistoryBuffer

from . import rebuild, rebuild_numpy
from .admitted import Admitted, refused
from .storages import storage_kinds

_Key = Tuple[str, str]
# One spelling per name: Python 2's, numpy 2's and old torch's move to it.
_MODULES = {
    '__builtin__': 'builtins',
    'numpy._core.multiarray': 'numpy.core.multiarray',
    'numpy._core.numeric': 'numpy.core.numeric',
    'torch.tensor': 'torch._tensor',
    'mmengine.logging': 'mmengine.logging.history_buffer',
    'mmengine.config': 'mmengine.config.config',
}
_CALLS: Dict[_Key, Any] = {
    ('builtins', 'set'): rebuild.set_of,
    ('builtins', 'frozenset'): rebuild.frozenset_of,
    ('builtins', 'bytes'): rebuild.no_bytes,
    ('builtins', 'bytearray'): rebuild.byte_array,
    ('builtins', 'complex'): rebuild.complex_of,
    ('builtins', 'getattr'): rebuild_numpy.statistic,
    ('_codecs', 'encode'): rebuild.encode,
    ('collections', 'OrderedDict'): rebuild.ordered_dict,
    ('collections', 'defaultdict'): rebuild.default_dict,
    ('collections', 'Counter'): rebuild.counter,
    ('torch', 'Size'): rebuild.size_of,
    ('torch', 'device'): rebuild.device,
    ('torch._utils', '_rebuild_tensor'): rebuild.tensor,
    ('torch._utils', '_rebuild_tensor_v2'): rebuild.tensor,
    ('torch._utils', '_rebuild_tensor_v3'): rebuild.tensor_v3,
    ('torch._utils', '_rebuild_parameter'): rebuild.parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): rebuild.parameter,
    ('torch._tensor', '_rebuild_from_type_v2'): rebuild.attributed_tensor,
    ('numpy', 'dtype'): rebuild_numpy.dtype_of,
    ('numpy.core.multiarray', '_reconstruct'): rebuild_numpy.empty_array,
    ('numpy.core.multiarray', 'scalar'): rebuild_numpy.scalar,
    ('numpy.core.numeric', '_frombuffer'): rebuild_numpy.buffer_array,
    ('mmengine.config.config', 'ConfigDict'): rebuild.config_dict,
}
_NEW: Dict[_Key, Any] = {
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): HistoryBuffer,
    ('torch.torch_version', 'TorchVersion'): rebuild.version,
}
# Named only as an argument of the rebuilders above.
_ARGUMENTS: Tuple[_Key, ...] = (
    ('numpy', 'ndarray'),
    ('torch', 'Tensor'),
    ('torch.nn.parameter', 'Parameter'),
)
_FACTORIES = (set, frozenset, dict, list, tuple, int, float, complex, str,
              bytes, bool)


def _rows() -> Iterator[Tuple[_Key, Admitted]]:
    factories = {('builtins', f.__name__): f for f in _FACTORIES}
    factories['collections', 'OrderedDict'] = rebuild.OrderedDict
    for key in {**_CALLS, **_NEW, **factories, **dict.fromkeys(_ARGUMENTS)}:
        yield key, Admitted('.'.join(key), _CALLS.get(key), _NEW.get(key),
                            factories.get(key))
    # Protocol 4 and later name a method by its dotted qualified name.
    for name, statistic in rebuild_numpy.STATISTICS.items():
        key = ('mmengine.logging.history_buffer', f'HistoryBuffer.{name}')
        yield key, statistic


def _constants() -> Iterator[Tuple[_Key, Any]]:
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            yield ('torch', name), value
    yield from storage_kinds().items()


_NAMES: Dict[_Key, Any] = {**dict(_constants()), **dict(_rows())}


def find(module: str, name: str) -> Any:
    """What an admitted name stands for; nothing is ever imported.

    Args:
        module (str): Module as the pickle spells it.
        name (str): Name in that module, dots taken literally.

    Returns:
        Admitted or torch.dtype: The stand-in or the dtype.

    Raises:
        CheckpointError: For every name that is not in the table.
    """
    key = (_MODULES.get(module, module), name)
    if key not in _NAMES:
        raise refused(f'{module[:100]}.{name[:100]}')
    return _NAMES[key]
