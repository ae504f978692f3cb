"""How wrong the estimate of latency on the Neural Engine is; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('benchmark-latency'))
