"""Train a grid of variants of one config and compare them; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.ablation.cli import run
    print(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
