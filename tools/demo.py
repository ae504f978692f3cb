"""Train, fold, export to Core ML and score every form on real data."""

import sys
from pathlib import Path

from mmpretrain_mobileone_ext.commands.cli import ToolParser, guarded


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--dataset', default='digits', help='digits or fashion-mnist')
    parser.add_argument('--data-dir', type=Path, default=Path('data'))
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo-DATASET')
    args = parser.parse_args()
    from mmpretrain_mobileone_ext.commands.training.demo import run_demo

    run_demo(args.dataset, args.data_dir, args.work_dir)


if __name__ == '__main__':
    sys.exit(guarded(main))
