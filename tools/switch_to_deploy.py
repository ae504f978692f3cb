"""Fold a training checkpoint into a verified deploy checkpoint; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('switch-to-deploy'))
