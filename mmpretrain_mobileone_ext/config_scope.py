"""Make ``_base_ = 'mmpretrain_mobileone_ext::...'`` resolve in mmengine.

mmengine only resolves packages of a table of its own, and asks
``pkg_resources`` for their folder, which is wrong for editable installs. An
entry that is no distribution but an importable module makes it use the
module's own folder, where ``.mim/configs`` lies, for any kind of install.
"""
from pathlib import Path

from mmengine.config import utils

#: The installed (or, in a clone, linked) configs, tools and model index.
MIM = Path(__file__).resolve().parent / '.mim'

utils.MODULE2PACKAGE.setdefault('mmpretrain_mobileone_ext', __name__)
