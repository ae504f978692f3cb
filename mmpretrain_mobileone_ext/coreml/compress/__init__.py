"""Compress an exported file by a named scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ...errors import ExportError
from ..program.read import read_program
from ..targets import target_of
from .activations import Batches, compress_activations
from .apply import apply_plan, compress_network
from .given import Trained
from .kmeans import Palettes
from .scheme import SCHEMES, DropTolerance, check_scheme, fixed_scheme, plan_for, tolerance_for
from .storage import Storage
from .weights import find_weights

__all__ = ['SCHEMES', 'DropTolerance', 'check_scheme', 'compress_file', 'tolerance_for']


def compress_file(
    source: Path,
    scheme: str,
    out: Path,
    calibration: Batches = (),
    palettes: Optional[Palettes] = None,
) -> Path:
    """Write ``source``, compressed by a fixed scheme, to ``out``.

    Interface, labels and metadata stay. Tables are one for each weight before iOS 18, and one for a
    group of output channels since; integers have a scale and a zero point for each output channel.

    Args:
        source: ``.mlpackage`` or ``.mlmodel`` with fp16 or fp32 weights.
        scheme: a fixed scheme, see ``SCHEMES``.
        out: of the same suffix; must not exist.
        calibration: for 'w8a8': images, as inputs of ``LoadedProgram.predict_batch``.
        palettes: remembers tables, for several calls.

    Returns:
        ``out``.

    Raises:
        ExportError: no such scheme, a file that cannot hold it, or nothing in it that the scheme
            would make smaller.
        ProgramError: the file cannot be read.
    """
    program = read_program(source)
    is_network = program.format == 'neuralnetwork'
    system = 'iOS15' if is_network else target_of(program)
    check_scheme(scheme, system, program.format)
    wanted = fixed_scheme(scheme)
    if isinstance(wanted, Trained):
        raise wanted.alone(source)
    if not isinstance(wanted, Storage):
        return compress_activations(source, out, calibration)
    if is_network:
        return compress_network(source, wanted, out)
    plan = plan_for(wanted, find_weights(program), system)
    if not plan:
        raise ExportError(f'{source}: {scheme} would make none of its weights smaller')
    return apply_plan(source, plan, out, palettes or Palettes())
