"""From a folder of images to a scored Core ML package; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.commands.training.finetune.cli import run
    from mmpretrain_mobileone_ext.utils.text import print_path

    print_path(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
