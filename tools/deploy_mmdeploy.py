"""Convert a classifier with mmdeploy, verified, on any OS; see --help."""

import sys

from mobileone_ext import main

if __name__ == '__main__':
    sys.exit(main('deploy-mmdeploy'))
