"""Export an image classifier to Core ML; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('export'))
