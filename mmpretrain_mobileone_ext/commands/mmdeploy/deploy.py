"""Deploy through mmdeploy; verified before the file has a name."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Optional, Union

from ...coreml.metadata import in_words, versions, write_metadata
from ...coreml.program.graph import LAYOUT, NORMALIZED
from ...errors import ExportError
from ...utils.files import install, tree_bytes, workspace
from ...utils.text import Steps, share
from .convert import Network, convert, load_network, require_mmdeploy
from .deploy_config import DeployConfig, DeployOptions
from .score import Opened, Scored, open_file, score

PathLike = Union[str, Path]
METADATA = 'metadata.json'


@dataclass(frozen=True)
class DeployResult:
    """A verified file that mmdeploy made.

    Attributes:
        path: the file, package or folder.
        size_bytes: of all of it.
        network: what it was made from, and the deploy config.
        opened: the file as it was executed.
        scored: parity and accuracy on images.
        seconds: from the checkpoint to the verified file, imports apart.
        mmdeploy: its version.
    """

    path: Path
    size_bytes: int
    network: Network
    opened: Opened
    scored: Scored
    seconds: float
    mmdeploy: str

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, in the order of the summary table."""
        s, p = self.scored, self.scored.parity
        deploy, ops = self.network.deploy, self.opened.operations
        rows = [
            ('file', str(self.path)),
            ('made by', f'mmdeploy {self.mmdeploy}, {deploy.name}'),
            ('size', f'{self.size_bytes / 1024:.0f} KiB'),
            ('precision', deploy.precision),
            ('input', self.opened.input),
            ('left to the app', app_work(self.network)),
            (
                'operations',
                ', '.join(f'{n} {k}' for k, n in ops.items()) + f'; {sum(ops.values())} in all',
            ),
            ('compared on', f'{s.images}, by {self.opened.runtime}'),
            (
                'parity',
                f'relative {p.relative:.2e}, max abs {p.max_abs:.2e}, PSNR {p.psnr_db:.1f} dB',
            ),
            ('same top-1', _percent(p.top1_agreement, p.num_samples)),
            (
                'top-1',
                'no labels'
                if s.top1_reference is None
                else f'torch {_percent(s.top1_reference, p.num_samples)}, file '
                f'{_percent(s.top1_candidate, p.num_samples)}',
            ),
            ('time', f'{self.seconds:.1f} s'),
        ]
        if self.opened.overflows:
            rows.append(('beyond fp16', ', '.join(self.opened.overflows)))
        return rows


def _percent(found: Optional[float], images: int) -> str:
    return 'unknown' if found is None else share(100 * found, images, ' %')


def app_work(network: Network) -> str:
    """What an app has to do around a file of mmdeploy, in words."""
    pre = network.preprocessing
    order = pre.layout if pre.channels == 3 and pre.layout else ''
    steps = ['resize', ' '.join(f'planar {order} float tensor'.split())]
    if any(pre.mean) or any(s != 1 for s in pre.std):
        steps.append('(pixel - mean) / std')
    return ', '.join([*steps, 'argmax, label'])


def run_deploy(
    deploy: DeployConfig,
    config: PathLike,
    checkpoint: PathLike,
    options: DeployOptions,
    cfg_options: Optional[Mapping[str, Any]],
    steps: Steps,
) -> DeployResult:
    """Convert a classifier with mmdeploy's own API, on any OS.

    Branches are folded. The file is executed and compared with the network on images; only then it
    gets its name. It takes normalized images, as mmdeploy makes them; mean, std, channel order and
    class names are in its metadata.

    Args:
        deploy: one of ``configs/mmdeploy``, or another one of mmdeploy's for mmpretrain and Core
            ML, ONNX Runtime or ncnn.
        config: config file of mmpretrain or this package.
        checkpoint: branch or deploy checkpoint.
        options: target, image size, images to compare on.
        cfg_options: dotted keys to values, merged into ``config``.
        steps: where progress is shown.

    Raises:
        ExportError: mmdeploy is missing, or a config or a model that it cannot convert.
        CheckpointError: the checkpoint is unsafe or does not fit.
        ParityError: the file predicts otherwise; nothing is written.
    """
    options.check_target(deploy)
    require_mmdeploy(deploy.backend)
    start = time.perf_counter()
    version = metadata.version('mmdeploy')
    with workspace(options.out, ExportError) as folder:
        with steps.step('load'):
            network = load_network(deploy, config, checkpoint, options, cfg_options)
        with steps.step('mmdeploy'):
            made = convert(network, str(checkpoint), folder)
        with steps.step('verify', total=len(network.images)) as advance:
            opened = open_file(made, network.deploy)
            scored = score(opened, network.source.model, network.images, deploy.precision, advance)
            scored.require(opened.overflows)
        with steps.step('write'):
            describe(made, network, scored, version)
            size = tree_bytes(made)
            install(made, options.out, options.force)
    return DeployResult(
        options.out, size, network, opened, scored, time.perf_counter() - start, version
    )


def describe(made: Path, network: Network, scored: Scored, mmdeploy: str) -> None:
    """Set metadata in the file, or beside ``model.param`` for ncnn.

    Args:
        mmdeploy: its version.
    """
    entries = _entries(network, scored, mmdeploy)
    backend = network.deploy.backend
    if backend == 'coreml':
        standard = dict(
            author='mmdeploy, called by mmpretrain_mobileone_ext',
            shortDescription=f'{network.source.config_name}: image classifier, probabilities only',
        )
        write_metadata(made, entries, standard, entries['preprocessing'])
    elif backend == 'ncnn':
        text = json.dumps(entries, indent=2, default=str)
        (made / METADATA).write_text(text + '\n', 'utf-8')
    else:
        _write_onnx(made, entries)


def _write_onnx(made: Path, entries: dict[str, Any]) -> None:
    onnx: Any = importlib.import_module('onnx')
    model = onnx.load(str(made))
    texts = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in entries.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    onnx.save(model, str(made))


def _entries(network: Network, scored: Scored, mmdeploy: str) -> dict[str, Any]:
    pre, source = network.preprocessing, network.source
    order = pre.layout or f'{pre.channels} channels'
    done = in_words(network.split.steps, pre.size)
    return {
        LAYOUT: NORMALIZED,
        'channel_order': order,
        'mean': list(pre.mean),
        'std': list(pre.std),
        'preprocessing': f'{done}; then {order}, planar, (pixel - mean) / std '
        'with the mean and std of this metadata',
        'classes': list(network.labels.names),
        'classes_origin': network.labels.origin,
        'config': source.config_name,
        'deploy_config': network.deploy.name,
        'source_checkpoint': source.checkpoint,
        'source_sha256': source.sha256,
        'parity': dict(
            _finite(scored.parity.to_dict()), tolerance=scored.tolerance, images=scored.images
        ),
        'top1': dict(torch=scored.top1_reference, file=scored.top1_candidate),
        'versions': dict(versions(), mmdeploy=mmdeploy),
    }


def _finite(parity: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the PSNR of equal outputs becomes null."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in parity.items()
    }
