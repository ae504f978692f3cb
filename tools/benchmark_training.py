"""Time and memory of a training step in every form; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.benchmark.training.run import run

    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
