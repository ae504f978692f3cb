"""Every command of ``mobileone-ext``, which are the tools in ``tools/``: the only list of them.

Uses the standard library only: ``doctor`` has to run where nothing else can be imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

PROGRAM = 'mobileone-ext'
_PACKAGE = __name__.partition('.')[0]
#: How a config that is installed with the package is named, here and in ``_base_``.
OURS = f'{_PACKAGE}::'
_DIGITS = f'{OURS}digits/mobileone-tiny_bs64_digits.py'
#: What the demo leaves.
_TRAINED = 'work_dirs/demo-digits/epoch_25.pth'


@dataclass(frozen=True)
class Command:
    """One command, a row of :data:`COMMANDS`.

    Attributes:
        name: as it is typed.
        summary: one line for ``mobileone-ext --help``.
        parser: where the function is that makes its parser, ``module:function`` below the package;
            that module imports no torch.
        run: where the function is that does the work, written so. It takes the words behind the
            command, and returns a path to print, an exit code or something else.
        example: words that work, where the demo has run before.
        stopped: what Ctrl-C has it say: how to go on.
        is_mmpretrains: MMPretrain's own tool does it, which may know more options.
        is_bare: it runs where the package cannot be imported.
    """

    name: str
    summary: str
    parser: str
    run: str
    example: str = ''
    stopped: str = 'stopped'
    is_mmpretrains: bool = False
    is_bare: bool = False

    def build_parser(self) -> Any:
        """Its parser, an ``ArgumentParser``, with the example."""
        parser = _found(self.parser)()
        parser.epilog = f'example:\n  {PROGRAM} {self.name} {self.example}'.rstrip()
        return parser

    def __call__(self, words: list[str]) -> Any:
        """Do what the words ask for."""
        return _found(self.run)(words)


def _found(place: str) -> Any:
    module, _, function = place.partition(':')
    return getattr(import_module(f'{_PACKAGE}.{module}'), function)


#: By name, in the order in which they are listed.
COMMANDS = {
    command.name: command
    for command in (
        Command(
            'finetune',
            'from a folder of images to a scored Core ML package',
            'commands.console.training:finetune_parser',
            'commands.training.finetune.cli:run',
            f'data/digits --config {_DIGITS} --epochs 5 --work-dir work_dirs/digits',
            stopped='stopped; give --resume to go on',
        ),
        Command(
            'train',
            "train a config with MMPretrain's tool",
            'commands.console.training:train_parser',
            'commands.console.training:train',
            f'{_DIGITS} --work-dir work_dirs/tiny --cfg-options train_cfg.max_epochs=2',
            stopped='stopped; give --resume to go on from the last checkpoint, if one was saved',
            is_mmpretrains=True,
        ),
        Command(
            'test',
            'score a checkpoint or a Core ML file on the test split',
            'commands.console.training:test_parser',
            'commands.console.training:test',
            f'{_DIGITS} {_TRAINED}',
            is_mmpretrains=True,
        ),
        Command(
            'ablate',
            'train a grid of variants of one config and compare them',
            'commands.console.training:ablate_parser',
            'commands.training.ablation.run:run',
            f'{_DIGITS} --vary model.backbone.num_conv_branches=1,2 --cfg-options '
            'train_cfg.max_epochs=2',
            stopped='stopped; the same command goes on',
        ),
        Command(
            'export',
            'export an image classifier to Core ML, verified',
            'commands.console.exporting:export_parser',
            'commands.export:main',
            f'{_DIGITS} {_TRAINED} --out digits.mlpackage',
        ),
        Command(
            'preflight',
            'what of a Core ML file runs on the Neural Engine of which chip',
            'commands.console.exporting:preflight_parser',
            'commands.preflight:run',
            'work_dirs/demo-digits/model.mlpackage --chip A14 M1',
        ),
        Command(
            'deploy-mmdeploy',
            'convert a classifier with mmdeploy, verified, on any OS',
            'commands.console.exporting:deploy_parser',
            'commands.mmdeploy.cli:run',
            f'{OURS}mmdeploy/classification_coreml-fp16_static-224x224.py {_DIGITS} {_TRAINED} '
            '--out mmdeploy.mlpackage --image-size 32',
        ),
        Command(
            'report',
            'one page about every form of a network in a work dir',
            'commands.console.scoring:report_parser',
            'commands.report:run',
            'work_dirs/demo-digits',
        ),
        Command(
            'compare',
            'MobileOne and other classifiers side by side',
            'commands.console.scoring:compare_parser',
            'commands.compare.run:run',
            'mobileone-ext-s0_8xb32_in1k mobilenet-v2_8xb32_in1k --size 64 --rounds 3',
        ),
        Command(
            'switch-to-deploy',
            'fold a training checkpoint into a verified deploy checkpoint',
            'commands.console.checkpoints:switch_parser',
            'commands.console.checkpoints:switch_to_deploy',
            f'{_DIGITS} {_TRAINED} --out digits_deploy.pth',
        ),
        Command(
            'convert-checkpoint',
            "rename weights between mmpretrain's, timm's and Apple's code",
            'commands.console.checkpoints:convert_parser',
            'commands.console.checkpoints:convert',
            f'{_TRAINED} --to timm --arch {_DIGITS} --out digits_timm.pth',
        ),
        Command(
            'recalibrate-bn',
            'measure running statistics of batch norms again',
            'commands.console.checkpoints:recalibrate_parser',
            'commands.console.checkpoints:recalibrate',
            f'{_DIGITS} {_TRAINED} --images 1024 --out digits_bn.pth',
        ),
        Command(
            'benchmark-training',
            'time and memory of a training step in every form',
            'commands.console.benchmarks:training_parser',
            'commands.benchmark.training.run:run',
            '--arch s0 --batch 2 --size 64 --steps 3 --forms branches auto folded --no-check',
        ),
        Command(
            'benchmark-runtime',
            'throughput of the reference runtime, and time of an export',
            'commands.console.benchmarks:runtime_parser',
            'commands.benchmark.runtime:run',
            '--batch 1 --size 64 --rounds 3 --images 10',
        ),
        Command(
            'benchmark-latency',
            'how wrong is the estimate of latency on the Neural Engine?',
            'commands.console.benchmarks:latency_parser',
            'commands.benchmark.latency.run:run',
            '--json work_dirs/latency.json',
            stopped='stopped; the same command goes on',
        ),
        Command(
            'benchmark-quantization',
            'ways to a quantized file, trained, exported and scored',
            'commands.console.benchmarks:quantization_parser',
            'commands.benchmark.quantization.run:run',
            f'--config {_DIGITS} --epochs 2 --seeds 0 --methods float late --schemes w4 --out '
            'work_dirs/quantization',
            stopped='stopped; the same command goes on',
        ),
        Command(
            'check-gpu',
            'are units right on this GPU, and how fast do networks train there?',
            'commands.console.benchmarks:gpu_parser',
            'commands.benchmark.gpu.run:run',
            '--device cpu --arch s0 --batch 2 --size 64 --steps 1 --minutes 2',
        ),
        Command(
            'demo',
            'train, fold, export and score on real data, in a few minutes',
            'commands.console.training:demo_parser',
            'commands.console.training:demo',
            '--dataset digits',
            stopped='stopped; the same command goes on',
        ),
        Command(
            'doctor',
            'what is installed, which known traps it holds, what runs here',
            'utils.doctor:make_parser',
            'utils.doctor:main',
            is_bare=True,
        ),
    )
}
