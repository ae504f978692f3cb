"""Write into a deployed file what an app must do before and after it."""
from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

from ..coreml.input_kind import LAYOUT, NORMALIZED
from ..coreml.metadata import in_words, versions, write_metadata
from .network import Network
from .score import Scored

METADATA = 'metadata.json'


def describe(made: Path, network: Network, scored: Scored,
             mmdeploy: str) -> None:
    """Set metadata in the file, or beside ``model.param`` for ncnn.

    Args:
        mmdeploy: its version.
    """
    entries = _entries(network, scored, mmdeploy)
    backend = network.deploy.backend
    if backend == 'coreml':
        standard = dict(
            author='mmdeploy, called by mmpretrain_mobileone_ext',
            shortDescription=f'{network.source.config_name}: image '
            'classifier, probabilities only')
        write_metadata(made, entries, standard, entries['preprocessing'])
    elif backend == 'ncnn':
        text = json.dumps(entries, indent=2, default=str)
        (made / METADATA).write_text(text + '\n', 'utf-8')
    else:
        _write_onnx(made, entries)


def _write_onnx(made: Path, entries: dict[str, Any]) -> None:
    onnx: Any = importlib.import_module('onnx')
    model = onnx.load(str(made))
    texts = {k: v if isinstance(v, str) else json.dumps(v, default=str)
             for k, v in entries.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    onnx.save(model, str(made))


def _entries(network: Network, scored: Scored,
             mmdeploy: str) -> dict[str, Any]:
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
        'parity': dict(_finite(scored.parity.to_dict()),
                       tolerance=scored.tolerance, images=scored.images),
        'top1': dict(torch=scored.top1_reference, file=scored.top1_candidate),
        'versions': dict(versions(), mmdeploy=mmdeploy),
    }


def _finite(parity: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the PSNR of equal outputs becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in parity.items()}
