"""From a folder of images to a scored Core ML package; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('finetune'))
