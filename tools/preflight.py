"""What of a Core ML file runs on the Neural Engine of which chip; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('preflight'))
