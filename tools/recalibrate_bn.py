"""Measure running statistics of batch norms again, scored before and after; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('recalibrate-bn'))
