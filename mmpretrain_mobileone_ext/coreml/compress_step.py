"""Compression as a step of an export: within its bound, or refused."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ParityError
from ..progress import Steps
from .compress import compress_file, package_bytes, tolerance_for
from .compress_search import Candidate, Sensitivity, search
from .convert import INPUT
from .export_options import ExportOptions
from .verify import Judge, Verification

_CALIBRATION = 64  # images whose values say how far activations reach


@dataclass(frozen=True)
class Compression:
    """A compressed file and how it was found.

    Attributes:
        path: of the file.
        verification: of this file.
        scheme: what its weights are stored as, in words.
        bound: name of the tolerance that was met.
        drop_points: percentage points of top-1 (of agreement without
            labels) below the file before compression.
        bytes, plain_bytes: of the file and of the one before compression,
            both without what is written into them later.
        candidates: all files that were scored, where a search was made.
        sensitivities: of its layers, most sensitive first.
    """
    path: Path
    verification: Verification
    scheme: str
    bound: str
    drop_points: float
    bytes: int
    plain_bytes: int
    candidates: tuple[Candidate, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()


def compress(plain: Path, before: Verification, judge: Judge,
             options: ExportOptions, folder: Path,
             steps: Steps) -> Compression:
    """Compress ``plain`` as ``options`` say.

    Args:
        plain: the verified file; not changed.
        before: its verification.
        judge: scores on the same images.
        folder: for what is made.

    Raises:
        ParityError: the file predicts worse than its bound allows.
        ExportError: a scheme that does not fit the file.
    """
    if options.compress == 'auto':
        return _searched(plain, before, judge, options, folder, steps)
    path = folder / 'compressed' / options.out.name
    path.parent.mkdir()
    with steps.step(f'compress {options.compress}'):
        compress_file(plain, options.compress, path,
                      [{INPUT: judge.sample(_CALIBRATION)}])
    with steps.step('verify compressed', total=len(judge.images)) as advance:
        after = judge.score(path, options.precision, advance)
    bound = tolerance_for(options.compress, options.max_drop)
    drop = _drop(before, after)
    failure = bound.failure(drop, after.parity.num_samples)
    if failure is None and not after.parity.relative < float('inf'):
        failure = 'its output is not finite'
    if failure is not None:
        raise ParityError(f'nothing is written, compress '
                          f'{options.compress}: {failure}')
    return Compression(path, after, options.compress, bound.name, drop,
                       package_bytes(path), package_bytes(plain))


def _searched(plain: Path, before: Verification, judge: Judge,
              options: ExportOptions, folder: Path,
              steps: Steps) -> Compression:
    budget = tolerance_for('auto', options.max_drop)
    result = search(plain, folder,
                    lambda path: judge.score(path, options.precision), before,
                    budget.max_drop, options.deployment_target, steps)
    best = result.best
    path = best.path or plain
    after = judge.score(path, options.precision)
    return Compression(path, after, best.scheme, f'max-drop {budget.max_drop}',
                       best.drop_points, best.size_bytes, package_bytes(plain),
                       result.candidates, result.sensitivities)


def _drop(before: Verification, after: Verification) -> float:
    """Points of top-1, or of agreement where nothing is labelled."""
    if before.top1_candidate is not None and after.top1_candidate is not None:
        return 100 * (before.top1_candidate - after.top1_candidate)
    return 100 * ((before.parity.top1_agreement or 0.0) -
                  (after.parity.top1_agreement or 0.0))
