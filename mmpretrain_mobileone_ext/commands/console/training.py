"""Parsers of the commands that train, and the start of those that others do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...utils.files import MIM
from ..cli import ToolParser, run_mmpretrain_tool

RECIPE = MIM / 'configs/finetune/mobileone-s0_finetune_image-folder.py'
_LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def finetune_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Fine-tune on a folder of images, fold, export to Core '
        'ML, score every form on the test images, and show the mistakes on one page.'
    )
    p.add_argument('data', type=Path, help='<class>/<image>, or {train,test}/<class>/<image>')
    p.add_argument(
        '--config',
        default=str(RECIPE),
        help="recipe (default: MobileOne S0 at 224 pixels from OpenMMLab's ImageNet weights)",
    )
    _add_network(p)
    _add_training(p)
    _add_quantization(p)
    _add_output(p)
    p.add_cfg_options('key=value pairs, merged into the recipe')
    return p


def _add_network(p: ToolParser) -> None:
    p.add_argument(
        '--arch',
        metavar='NAME',
        help="s0 to s4, or a name of mmpretrain's list_models(), each from its ImageNet weights "
        "(default: the recipe's)",
    )
    p.add_argument(
        '--image-size',
        type=int,
        metavar='N',
        help="sides of the square that the network sees, pixels (default: the recipe's)",
    )
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        '--weights',
        metavar='FILE|URL',
        help="checkpoint to start from (default: the recipe's "
        'load_from); its head may have other classes',
    )
    start.add_argument(
        '--from-scratch', action='store_true', help='start from random weights, and freeze nothing'
    )
    p.add_argument(
        '--frozen-stages',
        type=int,
        metavar='N',
        help="stages that stay as they are, 0 the stem alone, -1 none (default: the recipe's)",
    )


def _add_training(p: ToolParser) -> None:
    p.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help="default: the recipe's, or more where there are few images",
    )
    p.add_argument(
        '--lr',
        type=float,
        metavar='RATE',
        help="learning rate; a new head has ten times as much (default: the recipe's, fitted to "
        'the weights and the batch)',
    )
    p.add_argument(
        '--holdout',
        type=float,
        default=0.2,
        metavar='SHARE',
        help='of each class set aside for the test where the '
        'folder has no split (default: %(default)s)',
    )


def _add_quantization(p: ToolParser) -> None:
    p.add_argument(
        '--quantize',
        choices=('8', '4', '8a8', '4a8'),
        metavar='BITS',
        help='train the last third of the epochs with weights of 8 or 4 bits (8a8, 4a8: with '
        'activations of 8 bits, too) and export these integers; 4 and 4a8 need iOS 18, 8a8 iOS 17',
    )
    p.add_argument(
        '--teacher',
        nargs=2,
        metavar=('CONFIG', 'FILE'),
        help='learn from another classifier of these classes, too: its config and checkpoint',
    )


def _add_output(p: ToolParser) -> None:
    p.add_argument(
        '--format',
        default='mlpackage',
        metavar='X',
        help='of the file for the phone: mlpackage, mlmodel, or aimodel, Core AI, with the extra '
        '[coreai] (default: %(default)s)',
    )
    p.add_argument(
        '--compress',
        metavar='SCHEME',
        help='make that file smaller: int8, palettize4, auto, ...; see mobileone-ext export --help',
    )
    p.add_argument(
        '--swift',
        nargs='?',
        const='',
        metavar='DIR',
        help='write a Swift package with the model in it (DIR: <work dir>/swift); its module is '
        "named after the folder's last part",
    )
    p.add_argument('--work-dir', type=Path, help='default: work_dirs/finetune-<folder>')
    end = p.add_mutually_exclusive_group()
    end.add_argument(
        '--resume',
        action='store_true',
        help='go on with an interrupted run; what is done is skipped, and --format, --compress and '
        '--swift may differ; of a finished one, with the same options, the results are printed '
        'again',
    )
    end.add_argument(
        '--force',
        action='store_true',
        help='replace what an earlier run left there, and start anew',
    )


def ablate_parser() -> ToolParser:
    """The arguments; their values are checked by ``grid_from``."""
    p = ToolParser(
        description='Train variants of one config with several seeds, one '
        'after another, and compare them: a table, CSV and a plot. Run it '
        'again to go on: what is done is skipped, what was interrupted '
        'resumes.'
    )
    p.add_argument(
        'config',
        help='what the variants share; its '
        'ablation = dict(variants={name: options}, seeds=...) '
        'says what differs',
    )
    p.add_argument(
        '--vary',
        action='append',
        default=[],
        metavar='KEY=V,V',
        help='values of an option, as YAML; several make a product',
    )
    p.add_argument('--seeds', nargs='+', type=int, metavar='N', help="default: the config's, or 0")
    p.add_argument('--out', type=Path, metavar='DIR', help='default: work_dirs/ablate-<config>')
    p.add_argument(
        '--metric', default='accuracy/top1', help='validation metric (default: %(default)s)'
    )
    p.add_cfg_options('options that all variants share, as of mobileone-ext train')
    return p


def train_parser() -> ToolParser:
    """The arguments of MMPretrain's ``tools/train.py``, which reads them."""
    p = ToolParser(description="Train a config with MMPretrain's own tool.")
    p.add_argument('config', help='of mmpretrain or this package')
    p.add_argument(
        '--work-dir', metavar='DIR', help='for checkpoints and logs (default: work_dirs/<config>)'
    )
    p.add_argument(
        '--resume',
        nargs='?',
        type=str,
        const='auto',
        metavar='FILE',
        help='go on from a checkpoint (default: the last one of the work dir)',
    )
    p.add_argument('--amp', action='store_true', help='automatic mixed precision; needs a GPU')
    p.add_argument('--no-validate', action='store_true', help='do not score while training')
    p.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size and the config's auto_scale_lr",
    )
    _add_loading(p)
    p.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='end the workers of the loaders after each epoch',
    )
    _add_launcher(p)
    return p


def test_parser() -> ToolParser:
    """The arguments of MMPretrain's ``tools/test.py``, which reads them."""
    p = ToolParser(
        description="Score a checkpoint, or a Core ML file, on the test split with MMPretrain's "
        'own tool.'
    )
    p.add_argument('config', help='of the training run')
    p.add_argument(
        'checkpoint', help='branch or deploy checkpoint, .mlpackage, .mlmodel or .aimodel'
    )
    p.add_argument(
        '--work-dir', metavar='DIR', help='for the metrics (default: work_dirs/<config>)'
    )
    p.add_argument('--out', metavar='FILE.pkl', help='write the results')
    p.add_argument(
        '--out-item', choices=('metrics', 'pred'), help='which ones --out writes (default: pred)'
    )
    p.add_argument('--amp', action='store_true', help='automatic mixed precision; needs a GPU')
    p.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    p.add_argument('--show', action='store_true', help='draw predictions in a window')
    p.add_argument('--interval', type=int, default=1, metavar='N', help='draw every Nth image')
    p.add_argument(
        '--wait-time', type=float, default=2, metavar='S', help='seconds that a window stays'
    )
    _add_loading(p)
    p.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: the config's tta_pipeline, else the mean of image and mirror "
        'image',
    )
    _add_launcher(p)
    return p


def _add_loading(parser: ToolParser) -> None:
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='loaders use memory that may be swapped'
    )


def _add_launcher(parser: ToolParser) -> None:
    parser.add_cfg_options()
    parser.add_argument(
        '--launcher', choices=_LAUNCHERS, default='none', help='of several processes'
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        metavar='N',
        help="this process's number on its machine, which launchers give",
    )


def train(words: Sequence[str]) -> None:
    """Train; the words are those on the command line."""
    run_mmpretrain_tool('train.py')


def test(words: Sequence[str]) -> None:
    """Score; the words are those on the command line."""
    run_mmpretrain_tool('test.py')


def demo_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Train, fold, export to Core ML and score every form on real data: '
        "scikit-learn's scans of digits, or Fashion-MNIST."
    )
    p.add_argument('--dataset', default='digits', metavar='X', help='digits or fashion-mnist')
    p.add_argument(
        '--data-dir', type=Path, default=Path('data'), metavar='DIR', help='where data sets are put'
    )
    p.add_argument('--work-dir', type=Path, metavar='DIR', help='(default: work_dirs/demo-DATASET)')
    return p


def demo(words: Sequence[str]) -> None:
    """Run the demo that the words ask for."""
    args = demo_parser().parse_args(words)
    from ..training.demo import run_demo

    run_demo(args.dataset, args.data_dir, args.work_dir)
