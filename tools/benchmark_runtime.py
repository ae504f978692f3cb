"""Throughput of the reference runtime, and time of an export; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('benchmark-runtime'))
