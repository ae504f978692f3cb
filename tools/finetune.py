"""From a folder of images to a scored Core ML package; see --help."""
import sys

from mmpretrain_mobileone_ext.launch import guarded


def main() -> None:
    from mmpretrain_mobileone_ext.finetune.cli import run
    print(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
