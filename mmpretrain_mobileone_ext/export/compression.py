"""Compression as a step of an export: within its bound, or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..coreml.compress import DropTolerance, compress_file, tolerance_for
from ..coreml.compress.apply import apply_plan
from ..coreml.compress.kmeans import Palettes
from ..coreml.compress.search import Candidate, SearchResult, Sensitivity, search
from ..coreml.convert import INPUT
from ..errors import ParityError
from ..utils.accuracy import Answers, Verdict, verdict_on
from ..utils.files import tree_bytes
from ..utils.text import Steps
from .options import ExportOptions
from .verify import Advance, Judge, Verification

_CALIBRATION = 64  # images whose values say how far activations reach
_OTHER_HALF = slice(1, None, 2)  # of Images.every_other


@dataclass(frozen=True)
class Compression:
    """A compressed file and how it was found.

    Attributes:
        path: of the file.
        verification: of this file, on all images.
        scheme: what its weights are stored as, in words.
        bound: name of the tolerance that was met.
        drop_points: percentage points of top-1 (of agreement without
            labels) below the file before compression, on all images.
        bytes, plain_bytes: of the file and of the one before compression,
            both without what is written into them later.
        verdict: on the half of the images that candidates were not scored
            on, where there are enough of them, else on all.
        candidates: all files that were scored, where a search was made, the
            uncompressed one first.
        sensitivities: of its layers, most sensitive first.
        chosen_on: the images that candidates were scored on, in words.
        chosen_images: how many they are.
    """

    path: Path
    verification: Verification
    scheme: str
    bound: str
    drop_points: float
    bytes: int
    plain_bytes: int
    verdict: Verdict
    candidates: tuple[Candidate, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    chosen_on: str = ''
    chosen_images: int = 0

    @property
    def tried(self) -> int:
        """Compressed files that were made and scored in a search."""
        return max(len(self.candidates) - 1, 0)

    @property
    def passed_over(self) -> int:
        """Smaller files that fit where they were chosen, not on all."""
        return sum(c.fits and bool(c.reason) for c in self.candidates)


def compress(
    plain: Path,
    before: Verification,
    judge: Judge,
    options: ExportOptions,
    folder: Path,
    steps: Steps,
) -> Compression:
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
        compress_file(plain, options.compress, path, [{INPUT: judge.sample(_CALIBRATION)}])
    with steps.step('verify compressed', total=len(judge.images)) as advance:
        after = judge.score(path, options.precision, advance)
    bound = tolerance_for(options.compress, options.max_drop)
    images = after.parity.num_samples
    verdict = verdict_on(_answers(before), _answers(after), bound.allowed(images), bound.name)
    failure = bound.failure(verdict.loss.points, images)
    if failure is None and not after.parity.relative < float('inf'):
        failure = 'its output is not finite'
    if failure is not None:
        raise ParityError(f'nothing is written, compress {options.compress}: {failure}')
    return Compression(
        path,
        after,
        options.compress,
        bound.name,
        verdict.loss.points,
        tree_bytes(path),
        tree_bytes(plain),
        verdict,
    )


def _searched(
    plain: Path,
    before: Verification,
    judge: Judge,
    options: ExportOptions,
    folder: Path,
    steps: Steps,
) -> Compression:
    """Chosen on one half of the images where a half can tell the budget."""
    budget = tolerance_for('auto', options.max_drop)
    apart = _can_be_halved(judge, budget)
    chooser = judge.on(judge.images.every_other()) if apart else judge
    first = chooser.score(plain, options.precision) if apart else before
    result = search(
        plain,
        folder,
        lambda path: chooser.score(path, options.precision),
        first,
        budget.max_drop,
        options.deployment_target,
        steps,
    )
    with steps.step('verify compressed') as advance:
        after, candidates = _kept_on_all(
            plain, before, judge, options, folder, result, budget, advance
        )
    best = next(c for c in candidates if c.path is not None)
    assert best.path is not None
    return Compression(
        path=best.path,
        verification=after,
        scheme=best.scheme,
        bound=budget.name,
        drop_points=_verdict(before, after, budget, False).loss.points,
        bytes=tree_bytes(best.path),
        plain_bytes=tree_bytes(plain),
        verdict=_verdict(before, after, budget, apart),
        candidates=candidates,
        sensitivities=result.sensitivities,
        chosen_on=chooser.images.origin,
        chosen_images=len(chooser.images),
    )


def _can_be_halved(judge: Judge, budget: DropTolerance) -> bool:
    """Whether one image of a half is worth no more than the budget."""
    half = len(judge.images) // 2
    return judge.images.split is not None and half > 0 and 100 / half <= budget.max_drop


def _kept_on_all(
    plain: Path,
    before: Verification,
    judge: Judge,
    options: ExportOptions,
    folder: Path,
    result: SearchResult,
    budget: DropTolerance,
    advance: Advance,
) -> tuple[Verification, tuple[Candidate, ...]]:
    """The smallest that also keeps the budget on all images.

    Returns:
        Its verification, and all candidates; only its own has a path.
    """
    found = {id(c): replace(c, path=None) for c in result.candidates}
    for c in sorted(
        (c for c in result.candidates if c.fits), key=lambda c: (c.size_bytes, c is not result.best)
    ):
        path = c.path or _again(plain, c, folder)
        after = judge.score(path, options.precision) if c.plan else before
        advance(1)
        reason = _against(before, after, budget)
        found[id(c)] = replace(c, path=None if reason else path, reason=reason)
        if not reason:
            return after, tuple(found.values())
    raise AssertionError('the file before compression loses nothing')


def _against(before: Verification, after: Verification, budget: DropTolerance) -> str:
    """What all images say against a file that was chosen on half of them."""
    verdict = _verdict(before, after, budget, False)
    if not after.parity.relative < float('inf'):
        return 'not finite on all images'
    if verdict.beyond:
        return f'loses {verdict.loss.points:.2f} points on all images'
    if verdict.restless:
        return f'changes {verdict.changed} labels of all images'
    return ''


def _again(plain: Path, candidate: Candidate, folder: Path) -> Path:
    """The file of a candidate, which the search has removed."""
    if not candidate.plan:
        return plain
    number = len(list(folder.glob('again-*')))
    return apply_plan(plain, candidate.forms, folder / f'again-{number}.mlpackage', Palettes())


def _verdict(
    before: Verification, after: Verification, budget: DropTolerance, apart: bool
) -> Verdict:
    """On the images that had no part in a choice, or on all."""
    which = _OTHER_HALF if apart else slice(None)
    return verdict_on(
        _answers(before).part(which),
        _answers(after).part(which),
        budget.max_drop,
        budget.name,
        apart,
    )


def _answers(found: Verification) -> Answers:
    assert found.answers is not None  # options refuse features
    return found.answers
