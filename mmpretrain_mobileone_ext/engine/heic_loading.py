"""Photos of iPhones (HEIC) in MMPretrain's pipelines."""
from __future__ import annotations

import copy
from typing import Optional

from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile

from ..errors import MobileOneExtError
from ..registry import CHILDREN

HEIC_SUFFIXES = ('.heic', '.heif', '.hif')


@CHILDREN['TRANSFORMS'].register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's loader, that reads HEIC as well.

    OpenCV has no decoder for HEIC. Such files are read through Pillow and
    ``pillow-heif``, upright and to the same array (H, W, 3), BGR, uint8;
    all others are left to mmcv. It has mmcv's name, in this package's scope
    (``mmpretrain_mobileone_ext.LoadImageFromFile``), so that whoever reads a
    pipeline knows what comes out of it.

    Raises:
        MobileOneExtError: a HEIC file, and ``pillow-heif`` is not installed.
    """

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']``, as mmcv's loader does."""
        path = str(results['img_path'])
        if not path.lower().endswith(HEIC_SUFFIXES):
            return super().transform(results)
        _open_heic()
        reader = copy.copy(self)
        reader.imdecode_backend = 'pillow'
        return super(LoadImageFromFile, reader).transform(results)


def _open_heic() -> None:
    """Teach Pillow, in this process; data loaders have their own."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MobileOneExtError(
            'HEIC needs pillow-heif: pip install pillow-heif') from error
    register_heif_opener()
