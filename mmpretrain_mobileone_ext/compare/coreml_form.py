"""The same network as a Core ML file: a real conversion, executed once."""
from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import nn

from ..benchmark.runtime_network import CLASSES, random_images
from ..coreml.compress import tree_bytes
from ..coreml.convert import INPUT, PROBABILITIES, convert_and_save
from ..coreml.export_job import load_job
from ..coreml.export_options import ExportOptions
from ..coreml.runtime import load_program
from ..errors import ParityError
from ..parity import TOLERANCES, compare
from ..progress import Steps

_IMAGES = 2


class CoreMLFigures(NamedTuple):
    """Of an fp16 ``.mlpackage``.

    Size and operations do not depend on the values of weights.
    """
    size_bytes: int
    operations: int
    relative: float


def coreml_figures(model: nn.Module, size: int) -> CoreMLFigures:
    """Convert as ``export_coreml`` does, and compare on two images of noise.

    Labels are the numbers of the classes. Scores of random weights lie too
    close for a top-1 to mean anything: only values are compared.

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
            classes=[str(i) for i in range(CLASSES)])
        job = load_job(model, None, options, None, Steps(False))
        convert_and_save(job.prepared, job.preprocessing, job.labels.names,
                         options, options.out)
        loaded = load_program(options.out, arithmetic='fp16')
        images = random_images(_IMAGES, size).byte()
        pixels = images.flip(1) if job.preprocessing.flips else images
        found = loaded.predict_batch({INPUT: pixels.float()})
        parity = compare(job.network(images)[PROBABILITIES],
                         found[PROBABILITIES])
        bound = TOLERANCES['export-fp16'].max_relative
        if not parity.relative <= bound:
            raise ParityError(f'the Core ML file differs by '
                              f'{parity.relative:.2e}, more than {bound:g}')
        return CoreMLFigures(
            tree_bytes(options.out),
            sum(loaded.program.count_operations().values()), parity.relative)
