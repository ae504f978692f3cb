"""One page about every form of a network in a work dir; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('report'))
