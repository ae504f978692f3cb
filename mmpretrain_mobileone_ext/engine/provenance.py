"""Where a derived checkpoint came from, in plain types."""
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.version import __version__

from .checkpoint import file_sha256
from .disarm import CONFIG_TEXT

_PACKAGES = ('torch', 'mmengine', 'mmpretrain')


def provenance(source: Optional[Union[str, Path]] = None,
               config_text: Optional[str] = None,
               parity: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """Describe the making of a checkpoint, for its ``meta``.

    Args:
        source (str or Path, optional): The checkpoint it was made from.
        config_text (str, optional): The run's config. Kept under
            ``'config_text'``, because mmengine executes ``meta['config']``.
        parity (mapping, optional): Tolerances and measured differences by
            name; numbers (also numpy's and 0-d tensors), strings, booleans,
            None, and lists and mappings of them.

    Returns:
        dict: ``versions`` by package, ``created`` (ISO 8601, UTC), and
        ``source_file``, ``source_sha256``, ``config_text``, ``parity`` as
        given; only str, int, float, bool, None, list and dict.

    Raises:
        CheckpointError: If the source is no file or a parity value is not
            plain.
    """
    record: Dict[str, Any] = {
        'versions': {
            'mmpretrain_mobileone_ext': __version__,
            **{name: _version(name) for name in _PACKAGES}
        },
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }
    if source is not None:
        record['source_file'] = Path(source).name
        record['source_sha256'] = file_sha256(source)
    if config_text is not None:
        record[CONFIG_TEXT] = str(config_text)
    if parity is not None:
        record['parity'] = _plain(parity, 'parity')
    return record


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'unknown'  # a source tree on the path, never installed


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f'{where}.{k}') for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f'{where}[{i}]') for i, v in enumerate(value)]
    if hasattr(value, 'item') and getattr(value, 'shape', None) == ():
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise CheckpointError(f'provenance: {where} must be a number, str, bool, '
                          f'None, list or dict, not {type(value).__name__}')
