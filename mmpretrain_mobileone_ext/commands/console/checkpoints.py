"""The commands that make a checkpoint out of another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..cli import ToolParser


def switch_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(description='Fold a training checkpoint into a verified deploy checkpoint.')
    p.add_argument('config', help='of the training run')
    p.add_argument('checkpoint', help='in branch form')
    p.add_argument(
        '--out', type=Path, metavar='FILE', help='(default: CHECKPOINT with _deploy appended)'
    )
    p.add_argument('--force', action='store_true', help='replace an existing file')
    return p


def switch_to_deploy(words: Sequence[str]) -> Path:
    """Fold as the words say; returns the file."""
    args = switch_parser().parse_args(words)
    from mmpretrain import get_model

    from ...checkpoints.deploy_file import write_deploy_file
    from ...utils.config import read_config

    model = get_model(read_config(args.config))
    return write_deploy_file(model, args.checkpoint, args.out, force=args.force)


def convert_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description="Rename MobileOne's weights between mmpretrain's, timm's and Apple's code."
    )
    p.add_argument(
        'checkpoint',
        help="of ours, mmpretrain's, Apple's or timm's, branches or folded; recognized by its keys",
    )
    p.add_argument(
        '--to', required=True, choices=('mmpretrain', 'timm', 'apple'), help='whose names it gets'
    )
    p.add_argument('--out', type=Path, required=True, metavar='FILE', help='file to write')
    p.add_argument(
        '--arch', help='s0 to s4, a config file or a model name (default: found among s0 to s4)'
    )
    p.add_argument('--fold', action='store_true', help='write the folded form, verified')
    p.add_argument('--force', action='store_true', help='replace an existing file')
    return p


def convert(words: Sequence[str]) -> Path:
    """Rename as the words say; returns the file."""
    args = vars(convert_parser().parse_args(words))
    from ..checkpoints.convert import convert_checkpoint

    return convert_checkpoint(args.pop('checkpoint'), args.pop('to'), args.pop('out'), **args)


def recalibrate_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Measure running statistics of batch norms again, scored before and after; '
        'nothing is written where the score would fall.'
    )
    p.add_argument('config', help='of the training run')
    p.add_argument('checkpoint', help='in branch form')
    p.add_argument('--out', type=Path, required=True, metavar='FILE', help='checkpoint to write')
    p.add_argument(
        '--images', type=int, default=8192, metavar='N', help='training images to measure on'
    )
    p.add_argument(
        '--augment', action='store_true', help="use the training pipeline instead of the test's"
    )
    p.add_argument('--force', action='store_true', help='replace an existing file')
    return p


def recalibrate(words: Sequence[str]) -> Path:
    """Recalibrate as the words say, and print both scores; returns the file."""
    args = vars(recalibrate_parser().parse_args(words))
    from ..checkpoints.recalibrate import recalibrate_checkpoint

    done = recalibrate_checkpoint(
        args.pop('config'), args.pop('checkpoint'), args.pop('out'), progress=True, **args
    )
    print(
        f'{done.metric}: {done.before[done.metric]:.4f} before, '
        f'{done.after[done.metric]:.4f} after, on {done.images} images'
    )
    return done.path
