"""Make ``_base_ = 'mmpretrain_mobileone_ext::...'`` resolve in mmengine.

mmengine only resolves packages of a table of its own, and asks
``pkg_resources`` for their folder, which is wrong for editable installs. An
entry that is no distribution but an importable module makes it use the
module's own folder, where ``.mim/configs`` lies, for any kind of install.

In a clone ``.mim`` holds symbolic links. Where git cannot make them, as on
Windows by default, they are small text files (and in an unpacked source
distribution there are none): then the configs are those of the root folder,
and mmengine is told so.
"""
from __future__ import annotations

from pathlib import Path
from typing import Optional

from mmengine.config import Config, utils
from mmengine.utils import check_file_exist

_NAME = 'mmpretrain_mobileone_ext'
_PACKAGE = Path(__file__).resolve().parent

utils.MODULE2PACKAGE.setdefault(_NAME, __name__)


def _home(package: Path) -> Path:
    """``.mim``, or a clone's root where links are no links."""
    installed = package / '.mim'
    return installed if (installed / 'configs').is_dir() else package.parent


def _find_in(home: Path) -> None:
    """Let mmengine find our bases under ``home``, others as ever."""
    known = Config._get_cfg_path

    def find(cfg_path: str, filename: str) -> tuple[str, Optional[str]]:
        scope, colons, name = cfg_path.partition('::')
        if not colons or scope != _NAME:
            return known(cfg_path, filename)
        found = str(home / 'configs' / name)
        check_file_exist(found)
        return found, scope

    setattr(Config, '_get_cfg_path', staticmethod(find))  # noqa: B010


#: Where configs, tools, the model index and the tested versions lie.
MIM = _home(_PACKAGE)
if MIM.name != '.mim':
    _find_in(MIM)
