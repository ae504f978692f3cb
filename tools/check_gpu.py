"""Are units right on this GPU, and how fast do networks train there? See --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.benchmark.gpu.run import run

    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
