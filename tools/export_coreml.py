"""Export an image classifier to Core ML; see --help."""
import sys
import warnings

# Importing the package imports mmcv, which says so before launch can act.
warnings.filterwarnings(
    'ignore', r'\s*Fail to import ``MultiScaleDeformableAttention``')

from mmpretrain_mobileone_ext.launch import guarded  # noqa: E402


def main() -> None:
    from mmpretrain_mobileone_ext.coreml.export_cli import print_summary, run
    print_summary(run())


if __name__ == '__main__':
    sys.exit(guarded(main))
