"""mmpretrain's tools/test.py with mmpretrain_mobileone_ext registered."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('test'))
