"""mmpretrain's tools/train.py with mmpretrain_mobileone_ext registered."""

import sys

from mmpretrain_mobileone_ext.commands.cli import run_mmpretrain_tool

if __name__ == '__main__':
    sys.exit(run_mmpretrain_tool('train.py'))
