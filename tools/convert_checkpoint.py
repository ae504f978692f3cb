"""Rename MobileOne's weights between mmpretrain's, timm's and Apple's code."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('convert-checkpoint'))
