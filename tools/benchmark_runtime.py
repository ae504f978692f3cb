"""Throughput of the reference runtime, and time of an export; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.benchmark.runtime import run

    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
