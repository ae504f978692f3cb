"""Train a grid of variants of one config and compare them; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('ablate'))
