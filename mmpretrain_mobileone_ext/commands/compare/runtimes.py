"""A network as each runtime gets it: torch, ONNX Runtime, Core ML."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn

from ...coreml.convert import INPUT, PROBABILITIES, convert_and_save
from ...coreml.neural_engine.forecast import estimate_of
from ...coreml.neural_engine.latency.estimate import Estimate, fitted_model
from ...coreml.runtime.engine.chips import CHIPS
from ...coreml.runtime.load import load_program
from ...errors import ParityError
from ...export.job import load_job
from ...export.options import ExportOptions
from ...models import switch_to_deploy
from ...utils.files import tree_bytes
from ...utils.parity import TOLERANCES, Tolerance, compare, fold_tolerance
from ...utils.text import Steps
from ..benchmark.fake_data import CLASSES, build_classifier, random_images

#: Random weights of a deep network blow float32's rounding errors up, to 4e-4 in S4; a wrong export
#: is off by far more.
_BOUND = Tolerance('onnx', 1e-2)
_NEEDS = ('onnxruntime', 'onnx', 'onnxscript')
_IMAGES = 2  # that a Core ML file is compared on


class Complexity(NamedTuple):
    """Parameters, and multiply-adds of one image (what papers call FLOPs)."""

    params: int
    flops: int


def deployed(config: dict[str, Any], size: int) -> nn.Module:
    """Build a classifier with random weights and fold all that folds.

    Branches become one convolution, and a batch norm after a convolution becomes a part of it, in
    every family alike. Folded and compared in float64: random weights of a deep network blow
    rounding errors up.

    Args:
        config: of the classifier.
        size: of the images that norms are fitted to, in pixels.

    Returns:
        In eval mode, float32.

    Raises:
        ParityError: the folded network computes something else.
    """
    model = build_classifier(copy.deepcopy(config), size).double()
    images = example(size, 2).double()
    with torch.no_grad():
        before = model(images)
        # A deep copy: mmcv folds in place.
        folded = fuse_conv_bn(switch_to_deploy(model, inplace=False)).eval()
        parity = compare(before, folded(images))
    parity.require(fold_tolerance(torch.float64), 'the folded network')
    return folded.float().requires_grad_(False)


def example(size: int, count: int = 1) -> Tensor:
    """Seeded normal noise (N, 3, S, S), as normalized images are."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=rng)


def complexity(model: nn.Module, size: int) -> Complexity:
    """Count with mmengine's analysis at (1, 3, S, S)."""
    before = logging.root.manager.disable
    # It warns of activations and pooling, which papers do not count either.
    logging.disable(logging.WARNING)
    try:
        found = get_model_complexity_info(model, (3, size, size), show_table=False, show_arch=False)
    finally:
        logging.disable(before)
    return Complexity(int(found['params']), int(found['flops']))


def missing() -> list[str]:
    """Packages that this column needs and that are not installed."""
    return [name for name in _NEEDS if find_spec(name) is None]


def onnx_call(model: nn.Module, image: Tensor, threads: int) -> Callable[[], Any]:
    """Export, compare with torch, and return a call that runs ``image``.

    Args:
        model: in eval mode.
        image: (1, 3, S, S) float32, normalized.
        threads: of the session.

    Raises:
        ParityError: ONNX Runtime computes something else.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        _export(model, image, path)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(image.numpy())}
    with torch.no_grad():
        wanted = model(image)
    found = torch.from_numpy(session.run(None, feed)[0])
    compare(wanted, found).require(_BOUND, 'ONNX Runtime against torch')
    return lambda: session.run(None, feed)


def _export(model: nn.Module, image: Tensor, path: Path) -> None:
    loggers = [logging.getLogger(n) for n in ('torch.onnx', 'onnxscript')]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        # Steps of the exporter are printed, whatever is asked for.
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter('ignore')
            torch.onnx.export(model, (image,), str(path), dynamo=True, external_data=False)
    finally:
        for log, level in zip(loggers, levels):
            log.setLevel(level)


class CoreMLFigures(NamedTuple):
    """Of an fp16 ``.mlpackage``.

    Nothing but ``relative`` depends on the values of weights.

    Attributes:
        size_bytes: of the package.
        operations: in it.
        relative: error of its values.
        estimate: of its latency on an iPhone 12; None where its operations say too little.
    """

    size_bytes: int
    operations: int
    relative: float
    estimate: Optional[Estimate]


def coreml_figures(model: nn.Module, size: int) -> CoreMLFigures:
    """Convert as ``export_coreml`` does, and compare on two images of noise.

    Labels are the numbers of the classes. Scores of random weights lie too close for a top-1 to
    mean anything: only values are compared.

    Raises:
        ExportError: coremltools cannot convert the network.
        ParityError: the file computes something else.
    """
    with TemporaryDirectory() as folder:
        options = ExportOptions(
            out=Path(folder) / 'model.mlpackage',
            image_size=size,
            input='tensor',
            verify_data='none',
            classes=[str(i) for i in range(CLASSES)],
        )
        job = load_job(model, None, options, None, Steps(False))
        convert_and_save(job.prepared, job.preprocessing, job.labels.names, options, options.out)
        loaded = load_program(options.out, arithmetic='fp16')
        images = random_images(_IMAGES, size).byte()
        pixels = images.flip(1) if job.preprocessing.flips else images
        found = loaded.predict_batch({INPUT: pixels.float()})
        parity = compare(job.network(images)[PROBABILITIES], found[PROBABILITIES])
        bound = TOLERANCES['export-fp16'].max_relative
        if not parity.relative <= bound:
            raise ParityError(
                f'the Core ML file differs by {parity.relative:.2e}, more than {bound:g}'
            )
        return CoreMLFigures(
            tree_bytes(options.out),
            sum(loaded.program.count_operations().values()),
            parity.relative,
            estimate_of(loaded.program, fitted_model(), CHIPS['A14']),
        )
