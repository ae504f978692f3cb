"""Train a grid of variants of one config and compare them; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.ablation.cli import run
    from mmpretrain_mobileone_ext.outside_text import print_path
    print_path(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
