"""Export an image classifier to Core ML; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.export import print_summary, run

    print_summary(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
