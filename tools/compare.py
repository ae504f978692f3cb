"""MobileOne and other classifiers side by side; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('compare'))
