"""Time and memory of a training step in every form; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('benchmark-training'))
