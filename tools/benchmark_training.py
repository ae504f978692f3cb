"""Time and memory of a training step in every form; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.benchmark.cli import run
    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
