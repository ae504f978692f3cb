"""Fold a training checkpoint into a verified deploy checkpoint."""

import sys
from pathlib import Path

from mmpretrain_mobileone_ext.commands.cli import ToolParser, guarded


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='config of the training run')
    parser.add_argument('checkpoint', help='checkpoint in branch form')
    parser.add_argument('--out', type=Path, help='default: CHECKPOINT with _deploy appended')
    parser.add_argument('--force', action='store_true', help='replace an existing file')
    args = parser.parse_args()
    from mmpretrain import get_model

    from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
    from mmpretrain_mobileone_ext.utils.config import read_config
    from mmpretrain_mobileone_ext.utils.text import print_path

    model = get_model(read_config(args.config))
    print_path(write_deploy_file(model, args.checkpoint, args.out, force=args.force))


if __name__ == '__main__':
    sys.exit(guarded(main))
