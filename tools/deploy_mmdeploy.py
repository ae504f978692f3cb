"""Convert a classifier with mmdeploy, verified, on any OS; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.mmdeploy.cli import run

    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
