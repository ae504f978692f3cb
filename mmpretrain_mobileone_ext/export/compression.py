"""Compression as a step of an export: within its bound, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..coreml.compress import DropTolerance, compress_file, tolerance_for
from ..coreml.compress.apply import apply_plan
from ..coreml.compress.kmeans import Palettes
from ..coreml.compress.scheme import AUTO
from ..coreml.compress.search import Candidate, search
from ..coreml.convert import INPUT
from ..errors import ParityError
from ..utils.accuracy import Answers, Verdict, verdict_on
from ..utils.files import tree_bytes
from ..utils.text import Steps
from .options import ExportOptions
from .verify import Judge, Verification

_CALIBRATION = 64  # images whose values say how far activations reach
_OTHER_HALF = slice(1, None, 2)  # of Images.every_other


@dataclass(frozen=True)
class Compression:
    """A compressed file and how it was found.

    Attributes:
        path: of the file.
        verification: of this file, on all images.
        scheme: what its weights are stored as, in words.
        drop_points: percentage points of top-1 (of agreement without labels) below the file before
            compression, on all images.
        bytes, plain_bytes: of the file and of the one before compression, both without what is
            written into them later.
        verdict: on the half of the images that candidates were not scored on, where there are
            enough of them, else on all.
        candidates: all files that were scored, where a search was made, the uncompressed one first.
        chosen_on: the images that candidates were scored on, in words.
        chosen_images: how many they are.
    """

    path: Path
    verification: Verification
    scheme: str
    drop_points: float
    bytes: int
    plain_bytes: int
    verdict: Verdict
    candidates: tuple[Candidate, ...] = ()
    chosen_on: str = ''
    chosen_images: int = 0

    @property
    def bound(self) -> str:
        """Name of the tolerance that was met."""
        return self.verdict.bound_name

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
    if options.compress == AUTO:
        return _searched(plain, before, judge, options, folder, steps)
    path = folder / 'compressed' / options.out.name
    path.parent.mkdir()
    with steps.step(f'compress {options.compress}'):
        compress_file(plain, options.compress, path, [{INPUT: judge.sample(_CALIBRATION)}])
    with steps.step('verify compressed', total=len(judge.images)) as advance:
        after = judge.score(path, options.precision, advance)
    bound = tolerance_for(options.compress, options.max_drop)
    verdict = _verdict(before, after, bound)
    failure = bound.failure(verdict.loss.points, after.parity.num_samples)
    if failure is None and not after.parity.relative < float('inf'):
        failure = 'its output is not finite'
    if failure is not None:
        raise ParityError(f'nothing is written, compress {options.compress}: {failure}')
    return Compression(
        path=path,
        verification=after,
        scheme=options.compress,
        drop_points=verdict.loss.points,
        bytes=tree_bytes(path),
        plain_bytes=tree_bytes(plain),
        verdict=verdict,
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
    budget = tolerance_for(AUTO, options.max_drop)
    half = len(judge.images) // 2
    # One image of a half is worth no more than the budget.
    apart = judge.images.split is not None and half > 0 and 100 / half <= budget.max_drop
    chooser = judge.on(judge.images.every_other()) if apart else judge
    found = search(
        plain,
        folder,
        lambda path: chooser.score(path, options.precision),
        chooser.score(plain, options.precision) if apart else before,
        budget.max_drop,
        options.deployment_target,
        steps,
    )
    verifications = {plain: before}

    def verified(path: Path) -> Verification:
        if path not in verifications:
            verifications[path] = judge.score(path, options.precision)
            advance(1)
        return verifications[path]

    with steps.step('verify compressed') as advance:
        candidates = _kept_on_all(plain, folder, found, verified, budget)
    best = next(c for c in candidates if c.path is not None)
    assert best.path is not None
    after = verified(best.path)
    return Compression(
        path=best.path,
        verification=after,
        scheme=best.scheme,
        drop_points=_verdict(before, after, budget).loss.points,
        bytes=tree_bytes(best.path),
        plain_bytes=tree_bytes(plain),
        verdict=_verdict(before, after, budget, apart),
        candidates=candidates,
        chosen_on=chooser.images.origin,
        chosen_images=len(chooser.images),
    )


def _kept_on_all(
    plain: Path,
    folder: Path,
    candidates: Sequence[Candidate],
    verified: Callable[[Path], Verification],
    budget: DropTolerance,
) -> tuple[Candidate, ...]:
    """All candidates; the smallest that also keeps the budget on all images has a path."""
    found = {id(c): replace(c, path=None) for c in candidates}
    fitting = (c for c in candidates if c.fits)
    for c in sorted(fitting, key=lambda c: (c.size_bytes, c.path is None)):
        path = c.path or _again(plain, c, folder)
        reason = _against(verified(plain), verified(path), budget)
        found[id(c)] = replace(c, path=None if reason else path, reason=reason)
        if not reason:
            return tuple(found.values())
    raise AssertionError('the file before compression loses nothing')


def _again(plain: Path, candidate: Candidate, folder: Path) -> Path:
    """The file of a candidate, which the search has removed."""
    if not candidate.plan:
        return plain
    number = len(list(folder.glob('again-*')))
    return apply_plan(plain, candidate.plan, folder / f'again-{number}.mlpackage', Palettes())


def _against(before: Verification, after: Verification, budget: DropTolerance) -> str:
    """What all images say against a file that was chosen on half of them."""
    verdict = _verdict(before, after, budget)
    if not after.parity.relative < float('inf'):
        return 'not finite on all images'
    if verdict.beyond:
        return f'loses {verdict.loss.points:.2f} points on all images'
    if verdict.restless:
        return f'changes {verdict.changed} labels of all images'
    return ''


def _verdict(
    before: Verification, after: Verification, bound: DropTolerance, apart: bool = False
) -> Verdict:
    """On all images, or on those that had no part in a choice."""
    which = _OTHER_HALF if apart else slice(None)
    first, second = (_answers(found).part(which) for found in (before, after))
    allowed = bound.allowed(after.parity.num_samples)
    return verdict_on(first, second, allowed, bound.name, apart)


def _answers(found: Verification) -> Answers:
    assert found.answers is not None  # options refuse features
    return found.answers
