"""Are units right on this GPU, and how fast do networks train there? See --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('check-gpu'))
