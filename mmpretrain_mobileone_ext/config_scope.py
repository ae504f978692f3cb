"""Make ``_base_ = 'mmpretrain_mobileone_ext::...'`` resolve in mmengine.

mmengine only resolves packages of a table of its own, and asks
``pkg_resources`` for their folder, which is wrong for editable installs. An
entry that is no distribution but an importable module makes it use the
module's own folder, where ``.mim/configs`` lies, for any kind of install.
"""
from mmengine.config import utils

utils.MODULE2PACKAGE.setdefault('mmpretrain_mobileone_ext', __name__)
