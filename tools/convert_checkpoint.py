"""Rename MobileOne's weights between mmpretrain's, timm's and Apple's code."""

import sys
from pathlib import Path

from mmpretrain_mobileone_ext.commands.cli import ToolParser, guarded


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'checkpoint',
        help="of ours, mmpretrain's, Apple's or timm's, branches or folded; recognized by its keys",
    )
    parser.add_argument('--to', required=True, choices=['mmpretrain', 'timm', 'apple'])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--arch', help='s0 to s4, a config file or a model name; default: found among s0 to s4'
    )
    parser.add_argument('--fold', action='store_true', help='write the folded form, verified')
    parser.add_argument('--force', action='store_true', help='replace an existing file')
    args = parser.parse_args()
    from mmpretrain_mobileone_ext.commands.convert import convert_checkpoint
    from mmpretrain_mobileone_ext.utils.text import print_path

    print_path(
        convert_checkpoint(
            args.checkpoint, args.to, args.out, arch=args.arch, fold=args.fold, force=args.force
        )
    )


if __name__ == '__main__':
    sys.exit(guarded(main))
