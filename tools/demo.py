"""Train, fold, export to Core ML and score every form on real data; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('demo'))
