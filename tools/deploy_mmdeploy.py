"""Convert a classifier with mmdeploy, verified, on any OS; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.mmdeploy_bridge.cli import run
    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
