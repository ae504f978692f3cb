"""Ways to a quantized file, trained, exported and scored; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('benchmark-quantization'))
