"""Parsers of the commands that write files for a phone."""

from __future__ import annotations

from pathlib import Path

from ...coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS
from ...errors import ExportError
from ...export.options import OPTIONS, explained, flag
from ..cli import ToolParser


def export_parser() -> ToolParser:
    """The arguments; values are checked by ``ExportOptions``."""
    p = ToolParser(
        error_type=ExportError,
        description='Export an image classifier to Core ML: '
        'folded, normalization baked in, and compared with torch before the file gets its name.',
    )
    p.add_argument('config', help='config of mmpretrain or this package')
    p.add_argument('checkpoint', help='branch or deploy checkpoint')
    for name, option in OPTIONS.items():
        argument = dict(option.metadata['argument'])
        if not argument.get('required') and 'action' not in argument:
            argument['default'] = option.default
        p.add_argument(flag(name), help=explained(name).replace('%', '%%'), **argument)
    p.add_cfg_options()
    return p


def deploy_parser() -> ToolParser:
    """The arguments; values are checked by ``DeployOptions``."""
    p = ToolParser(
        error_type=ExportError,
        description="Convert a classifier with mmdeploy's own API "
        'to Core ML, ONNX Runtime or ncnn, on any OS, and compare '
        'the file with torch before it gets its name.',
    )
    p.add_argument('deploy_cfg', help='deploy config, configs/mmdeploy/...')
    p.add_argument('config', help='config of mmpretrain or this package')
    p.add_argument('checkpoint', help='branch or deploy checkpoint')
    p.add_argument(
        '--out', required=True, help='.mlpackage or .mlmodel, .onnx, or .ncnn (a folder)'
    )
    p.add_argument(
        '--image-size',
        nargs='+',
        type=int,
        metavar='N',
        help="H or H W (default: the deploy config's)",
    )
    p.add_argument(
        '--verify-data',
        default='100',
        metavar='test|N|none',
        help='whole test split, N of its images, or seeded noise (default: 100)',
    )
    p.add_argument('--force', action='store_true', help='replace an existing file')
    p.add_argument(
        '--compare', action='store_true', help='export with this package too, and show both'
    )
    p.add_argument('--json', type=Path, metavar='FILE', help='write what --compare shows')
    p.add_cfg_options()
    return p


def _word(chip: str) -> str:
    """A chip's name as one word of a command line."""
    return chip.replace(' ', '')


def preflight_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Tell which operations of a Core ML file the Neural Engine of a chip takes, '
        'why not the others and what to write instead, which stored weights it reads as they are, '
        'how often work changes between units, and about how long one prediction takes. '
        'Needs no device: what it says is as sure as the label beside it.'
    )
    p.add_argument('models', nargs='+', type=Path, metavar='MODEL', help='.mlpackage or .mlmodel')
    p.add_argument(
        '--chip',
        nargs='+',
        default=[],
        metavar='NAME',
        help=f'{", ".join(map(_word, CHIPS))} (default: {" ".join(map(_word, DEFAULT_CHIPS))})',
    )
    p.add_argument('--all', action='store_true', help='tell of every operation, not only of groups')
    p.add_argument(
        '--suggest',
        action='store_true',
        help='list what would shorten it, and by how much; this and the parts of its time are of '
        'the first chip whose estimate has bounds, else of the first',
    )
    p.add_argument(
        '--calibrate',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help="fit the estimate to your device by the JSON of a Swift package's bench; each is of "
        'one of the models, or of a NAME.mlpackage beside it; needs --chip with its one chip',
    )
    p.add_argument(
        '--json', metavar='FILE', help='write all that was found there; - prints it instead'
    )
    p.add_argument(
        '--require',
        choices=('engine',),
        help='exit with code 1 unless all of the network is known to run on the engine of every '
        'chip; what converts inputs and results does not count',
    )
    return p
