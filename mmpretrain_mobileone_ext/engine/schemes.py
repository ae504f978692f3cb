"""How mmengine finds a checkpoint by its name, with safe loading behind all.

Importing this module replaces every loader in mmengine's CheckpointLoader,
so ``load_from``, ``--resume``, ``init_cfg`` and ``get_model`` read all files,
local or downloaded, as untrusted data. Names of Core ML files are new.
"""
import io
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmpretrain_mobileone_ext.errors import CheckpointError

from ..models.program_path import CORE_ML_KEY, ProgramMetadata
from .checkpoint import checked_checkpoint, load_checkpoint_file
from .download import TIMEOUT, load_url
from .restricted_load import restricted_load


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: Union[str, Path],
                    map_location: Any = None) -> dict:
    """Load a local checkpoint; see :func:`load_checkpoint_file`."""
    return load_checkpoint_file(filename, map_location)


@CheckpointLoader.register_scheme(
    prefixes=r'.*\.(mlpackage|mlmodel)/*$', force=True)
def load_from_coreml(filename: Union[str, Path],
                     map_location: Any = None) -> dict:
    """Stand in for the state dict of a Core ML file, without reading it.

    Args:
        filename (str or Path): A ``.mlpackage`` folder or ``.mlmodel`` file.
        map_location: Ignored.

    Returns:
        dict: ``state_dict`` with the path as a str under ``CORE_ML_KEY``, a
        ``_metadata`` that makes other models refuse it, and
        an empty ``meta``.

    Raises:
        CheckpointError: If there is no such file.
    """
    path = Path(filename).expanduser()
    if not path.exists():
        raise CheckpointError(f'{path}: no such Core ML file')
    state = OrderedDict({CORE_ML_KEY: str(path)})
    state._metadata = ProgramMetadata(str(path))  # type: ignore[attr-defined]
    return {'state_dict': state, 'meta': {}}


@CheckpointLoader.register_scheme(
    prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str,
                   map_location: Any = None,
                   model_dir: Optional[str] = None,
                   progress: Optional[bool] = None,
                   timeout: float = TIMEOUT,
                   limit: Optional[int] = None) -> dict:
    """Download a checkpoint once, then load it like a local file.

    Args:
        filename (str): URL; see :func:`download.load_url`.
        map_location: As of torch.load.
        model_dir (str, optional): Folder for downloads. Defaults to
            ``checkpoints`` in torch.hub's folder.
        progress (bool, optional): Show a progress bar. Defaults to whether
            stderr is a terminal.
        timeout (float): Seconds without an answer after which it is given
            up.
        limit (int, optional): Bytes allowed. Defaults to what
            ``MOBILEONE_EXT_MAX_DOWNLOAD_MB`` allows, or 4 GiB.

    Returns:
        dict: The checkpoint.

    Raises:
        CheckpointError: If it cannot be downloaded or loaded; nothing is
            kept then.
    """
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(),
                                            'checkpoints'))

    def load() -> dict:
        return load_url(
            filename, folder,
            lambda file, name: load_checkpoint_file(file, map_location, name),
            show=sys.stderr.isatty() if progress is None else progress,
            timeout=timeout, limit=limit)

    rank, world_size = get_dist_info()
    if world_size == 1:
        return load()
    try:
        loaded = load() if rank == 0 else None
    finally:
        # The others must not wait forever for a download that failed.
        barrier()
    return load() if loaded is None else loaded


@CheckpointLoader.register_scheme(
    prefixes=('modelzoo://', 'torchvision://'), force=True)
def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    """Load torchvision's weights by model name, from their URL."""
    urls = get_torchvision_models()
    return load_from_http(_named(filename, urls), map_location)


@CheckpointLoader.register_scheme(
    prefixes=('open-mmlab://', 'openmmlab://'), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Load OpenMMLab's weights by name, from their URL or local file."""
    scheme, _, name = filename.partition('://')
    name = get_deprecated_model_names().get(name, name)
    target = _named(f'{scheme}://{name}', get_external_models())
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    default = os.path.join(os.getenv('XDG_CACHE_HOME', '~/.cache'), 'mmengine')
    home = Path(os.getenv('MMENGINE_HOME', default)).expanduser()
    return load_checkpoint_file(home / target, map_location)


@CheckpointLoader.register_scheme(prefixes='mmcls://', force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """Load the backbone of MMClassification's weights, by model name."""
    checkpoint = load_from_http(
        _named(filename, get_mmcls_models()), map_location)
    state = checkpoint.get('state_dict', checkpoint)
    prefix = 'backbone.'
    return {
        'state_dict':
        OrderedDict((key[len(prefix):], value) for key, value in state.items()
                    if key.startswith(prefix))
    }


def _named(filename: str, urls: dict) -> str:
    name = filename.partition('://')[2]
    if name not in urls:
        raise CheckpointError(f'{filename}: no model of that name; there are '
                              f'{len(urls)}, such as {sorted(urls)[:3]}')
    return urls[name]


@CheckpointLoader.register_scheme(
    prefixes=(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_ceph(filename: str,
                   map_location: Any = None,
                   backend: str = 'petrel') -> dict:
    """Load a checkpoint through mmengine's petrel file backend.

    Raises:
        CheckpointError: If it is no checkpoint or asks to run anything.
    """
    client = get_file_backend(filename, backend_args={'backend': backend})
    try:
        loaded = restricted_load(
            io.BytesIO(client.get(filename)), map_location)
        return checked_checkpoint(loaded)
    except CheckpointError as error:
        raise CheckpointError(f'{filename}: {error}') from None


@CheckpointLoader.register_scheme(prefixes='pavi://', force=True)
def load_from_pavi(filename: str, map_location: Any = None) -> dict:
    """Refuse: pavi has no client that could be checked.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(f'{filename}: pavi:// is not supported; download '
                          'the file and load it from its path')
