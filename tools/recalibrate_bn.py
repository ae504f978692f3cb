"""Measure running statistics of batch norms again, scored before and after."""

import sys
from pathlib import Path

from mmpretrain_mobileone_ext.commands.cli import ToolParser, guarded


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='config of the training run')
    parser.add_argument('checkpoint', help='checkpoint in branch form')
    parser.add_argument('--out', type=Path, required=True, help='checkpoint to write')
    parser.add_argument(
        '--images',
        type=int,
        default=8192,
        metavar='N',
        help='training images to measure on (default: 8192)',
    )
    parser.add_argument(
        '--augment', action='store_true', help="use the training pipeline instead of the test's"
    )
    parser.add_argument('--force', action='store_true', help='replace an existing file')
    args = vars(parser.parse_args())
    import mmpretrain_mobileone_ext  # noqa: F401  (registers)
    from mmpretrain_mobileone_ext.commands.recalibrate import recalibrate_checkpoint
    from mmpretrain_mobileone_ext.utils.text import print_path

    done = recalibrate_checkpoint(
        args.pop('config'), args.pop('checkpoint'), args.pop('out'), progress=True, **args
    )
    print(
        f'{done.metric}: {done.before[done.metric]:.4f} before, '
        f'{done.after[done.metric]:.4f} after, on {done.images} images'
    )
    print_path(done.path)


if __name__ == '__main__':
    sys.exit(guarded(main))
