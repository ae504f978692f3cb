"""MobileOne and other classifiers side by side; see --help."""

import sys

from mmpretrain_mobileone_ext.commands.cli import guarded


def main() -> None:
    import mmpretrain_mobileone_ext  # noqa: F401  (registers)
    from mmpretrain_mobileone_ext.commands.compare.run import run

    run()


if __name__ == '__main__':
    sys.exit(guarded(main))
