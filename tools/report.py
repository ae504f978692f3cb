"""One page about every form of a network in a work dir; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.outside_text import print_path
    from mmpretrain_mobileone_ext.report.cli import run
    print_path(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
