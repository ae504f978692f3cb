"""One page about every form of a network in a work dir; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.report.cli import run
    print(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
