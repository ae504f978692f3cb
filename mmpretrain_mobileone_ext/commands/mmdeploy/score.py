"""Run a deployed file anywhere and compare it with the network."""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn

from ...coreml.runtime.load import load_program
from ...errors import ExportError
from ...export.data import Images
from ...export.verify import PROBABILITIES, classifier, in_double, own_rounding, tolerance_of
from ...utils.parity import TOLERANCES, Parity, compare, widened
from .convert import BIN, PARAM
from .deploy_config import DeployConfig

#: Normalized images (N, C, H, W), fp32, to probabilities (N, K).
Run = Callable[[Tensor], Tensor]
Advance = Callable[[int], Any]


@dataclass(frozen=True)
class Opened:
    """A deployed file that can predict.

    Attributes:
        run: what it computes.
        runtime: what executes it, in words.
        input: what it takes, in words.
        operations: operation type to count, in the file.
        overflows: operation to count of values beyond fp16; filled by ``run``, Core ML only.
    """

    run: Run
    runtime: str
    input: str
    operations: dict[str, int]
    overflows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What the comparison with the network found.

    Attributes:
        parity: of the probabilities.
        tolerance: name of the bound that applies.
        images: what was compared, in words.
        top1_reference, top1_candidate: share of correct labels, 0 to 1, of the network and of the
            file; None without labels.
        rounding: relative error of the network's own fp32 against fp64; measured only where an fp32
            file does not meet the tolerance.
    """

    parity: Parity
    tolerance: str
    images: str
    top1_reference: Optional[float]
    top1_candidate: Optional[float]
    rounding: Optional[float] = None

    def require(self, overflows: dict[str, int]) -> None:
        """Raise unless the tolerance is met.

        Raises:
            ParityError: states the figures and what overflows.
        """
        what = 'nothing is written, the file differs from the network'
        if overflows:
            what += f' (values beyond fp16 in {", ".join(overflows)})'
        self.parity.require(widened(TOLERANCES[self.tolerance], self.rounding), what)


def open_file(path: Path, deploy: DeployConfig) -> Opened:
    """Open what mmdeploy made, with the runtime that is here.

    Core ML runs in the reference runtime of this package; ONNX in ONNX Runtime, or in onnx's own
    reference where that is not installed; ncnn in ncnn.

    Raises:
        ProgramError: a Core ML file with an unknown operation.
    """
    openers = {'coreml': _core_ml, 'onnxruntime': _onnx, 'ncnn': _ncnn}
    return openers[deploy.backend](path, deploy)


@torch.no_grad()
def score(
    opened: Opened,
    model: nn.Module,
    images: Images,
    precision: str,
    advance: Advance = lambda count: None,
) -> Scored:
    """Compare a file with the network it was made from.

    Args:
        model: the network, which normalizes images for both.
        precision: 'fp16' or 'fp32', of the file.
        advance: told the number of images done.

    Raises:
        ExportError: an image cannot be read or has another shape.
    """
    network = classifier(model)
    wanted, found, truth = [], [], []
    for batch, labels in images.chunks():
        data = model.get_submodule('data_preprocessor')({'inputs': batch}, False)
        wanted.append(network(batch)[PROBABILITIES])
        found.append(opened.run(data['inputs'].float()))
        truth += [] if labels is None else [labels]
        advance(len(batch))
    known = torch.cat(truth) if len(truth) == len(wanted) else None
    parity = compare(torch.cat(wanted), torch.cat(found), classes=True)
    tolerance, rounding = tolerance_of(precision), None
    if precision == 'fp32' and parity.failure(tolerance) is not None:
        rounding = own_rounding(
            lambda: classifier(in_double(model), torch.float64),
            images,
            {PROBABILITIES: torch.cat(wanted)},
        )
    return Scored(
        parity=parity,
        tolerance=tolerance.name,
        images=images.origin,
        top1_reference=_top1(wanted, known),
        top1_candidate=_top1(found, known),
        rounding=rounding,
    )


def _top1(scores: Sequence[Tensor], truth: Optional[Tensor]) -> Optional[float]:
    if truth is None:
        return None
    same = torch.cat(list(scores)).argmax(1) == truth
    return float(same.double().mean())


def _core_ml(path: Path, deploy: DeployConfig) -> Opened:
    loaded = load_program(path, arithmetic=deploy.precision)
    feature = loaded.program.inputs[0]

    def run(images: Tensor) -> Tensor:
        outputs = loaded.predict_batch({feature.name: images})
        if len(outputs) != 1:
            raise ExportError(
                f'mmdeploy made outputs {sorted(outputs)}; one of class scores is needed'
            )
        return next(iter(outputs.values())).flatten(1)

    return Opened(
        run=run,
        runtime='reference runtime',
        input=f'{feature.dtype} tensor {feature.shape}',
        operations=loaded.program.count_operations(),
        overflows=loaded.overflows,
    )


def _onnx(path: Path, deploy: DeployConfig) -> Opened:
    onnx: Any = importlib.import_module('onnx')
    graph = onnx.load(str(path)).graph
    session, runtime = _session(path)
    sizes = [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim]

    def run(images: Tensor) -> Tensor:
        # A static graph takes one image at a time.
        step = 1 if sizes[0] == 1 else len(images)
        found = [
            session.run(None, {graph.input[0].name: part.numpy()})[0] for part in images.split(step)
        ]
        return torch.from_numpy(np.concatenate(found))

    return Opened(
        run=run,
        runtime=runtime,
        input=f'fp32 tensor ({", ".join(str(s) for s in sizes)})',
        operations=_counted(node.op_type for node in graph.node),
    )


def _session(path: Path) -> tuple[Any, str]:
    """Something with onnxruntime's ``run``, and its name."""
    if importlib.util.find_spec('onnxruntime') is None:
        reference: Any = importlib.import_module('onnx.reference')
        return reference.ReferenceEvaluator(str(path)), 'onnx reference'
    ort: Any = importlib.import_module('onnxruntime')
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns about unknown processors
    return ort.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    ), 'ONNX Runtime'


def _ncnn(path: Path, deploy: DeployConfig) -> Opened:
    ncnn: Any = importlib.import_module('ncnn')
    net = ncnn.Net()
    # The file is fp32; halves would be ncnn's choice, by processor.
    for option in ('fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage'):
        setattr(net.opt, f'use_{option}', False)
    net.opt.num_threads = torch.get_num_threads()
    net.load_param(str(path / PARAM))
    net.load_model(str(path / BIN))

    def one(image: Tensor) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(image.contiguous().numpy()).clone())
        return np.array(extractor.extract(net.output_names()[0])[1])

    lines = (path / PARAM).read_text('utf-8').splitlines()[2:]
    kinds = [line.split()[0] for line in lines if line.strip()]
    return Opened(
        run=lambda images: torch.from_numpy(np.stack([one(i) for i in images])).flatten(1),
        runtime='ncnn',
        input=f'fp32 tensor ({deploy.channels}, {deploy.size[0]}, {deploy.size[1]})'
        if deploy.size
        else 'fp32 tensor',
        operations=_counted(k for k in kinds if k not in ('Input', 'Split')),
    )


def _counted(kinds: Any) -> dict[str, int]:
    return dict(Counter(kinds).most_common())
