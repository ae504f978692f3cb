"""Compression as a step of an export: within its bound, or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..coreml.compress import DropTolerance, tolerance_for
from ..coreml.compress.search import SearchResult
from ..coreml.compress.trial import Candidate
from ..coreml.convert import INPUT
from ..errors import ParityError
from ..utils.accuracy import Answers, Verdict, verdict_on
from ..utils.text import Steps
from .options import ExportOptions
from .verify import Advance, Judge, Made, Verification

_CALIBRATION = 64  # images whose values say how far activations reach
_OTHER_HALF = slice(1, None, 2)  # of Images.every_other


@dataclass(frozen=True)
class Compression:
    """How a compressed file was found.

    Attributes:
        plain: the file before compression, which stays in the workspace.
        scheme: what the weights are stored as, in words.
        bound: name of the tolerance that was met.
        verdict: on the half of the images that candidates were not scored
            on, where there are enough of them, else on all.
        candidates: all files that were scored, where a search was made, the
            uncompressed one first; only the chosen one has a path.
        chosen_on: the images that candidates were scored on, in words.
        chosen_images: how many they are.
    """

    plain: Made
    scheme: str
    bound: str
    verdict: Verdict
    candidates: tuple[Candidate, ...] = ()
    chosen_on: str = ''
    chosen_images: int = 0

    @property
    def chosen(self) -> Candidate:
        """The candidate that was kept, where a search was made."""
        return next(c for c in self.candidates if c.path is not None)

    @property
    def tried(self) -> int:
        """Compressed files that were made and scored in a search."""
        return max(len(self.candidates) - 1, 0)

    @property
    def passed_over(self) -> int:
        """Smaller files that fit where they were chosen, not on all."""
        return sum(c.fits and bool(c.reason) for c in self.candidates)


def compress(
    plain: Made, judge: Judge, options: ExportOptions, folder: Path, steps: Steps
) -> tuple[Made, Compression]:
    """Compress ``plain`` as ``options`` say.

    Args:
        plain: not changed.
        judge: scores on the images that ``plain`` was verified on.
        folder: for what is made.

    Returns:
        The compressed file, and how it was found.

    Raises:
        ParityError: the file predicts worse than its bound allows.
        ExportError: a scheme that does not fit the file.
    """
    if options.compress == 'auto':
        return _searched(plain, judge, options, folder, steps)
    path = folder / 'compressed' / options.out.name
    path.parent.mkdir()
    with steps.step(f'compress {options.compress}'):
        options.format.compress(
            plain.path, options.compress, path, [{INPUT: judge.sample(_CALIBRATION)}]
        )
    with steps.step('verify compressed', total=len(judge.images)) as advance:
        after = judge.score(path, options.precision, advance)
    bound = tolerance_for(options.compress, options.max_drop)
    images = after.parity.num_samples
    verdict = verdict_on(
        _answers(plain.verification), _answers(after), bound.allowed(images), bound.name
    )
    failure = bound.failure(verdict.loss.points, images)
    if failure is None and not after.parity.relative < float('inf'):
        failure = 'its output is not finite'
    if failure is not None:
        raise ParityError(f'nothing is written, compress {options.compress}: {failure}')
    made = replace(plain, path=path, verification=after)
    return made, Compression(plain, options.compress, bound.name, verdict)


def _searched(
    plain: Made, judge: Judge, options: ExportOptions, folder: Path, steps: Steps
) -> tuple[Made, Compression]:
    """Chosen on one half of the images where a half can tell the budget."""
    budget = tolerance_for('auto', options.max_drop)
    apart = _can_be_halved(judge, budget)
    chooser = judge.on(judge.images.every_other()) if apart else judge
    result = options.format.search(
        plain.path,
        folder,
        lambda path: chooser.score(path, options.precision),
        chooser.score(plain.path, options.precision) if apart else plain.verification,
        budget.max_drop,
        options.deployment_target,
        steps,
    )
    with steps.step('verify compressed') as advance:
        made, candidates = _kept_on_all(plain, judge, options, folder, result, budget, advance)
    found = Compression(
        plain=plain,
        scheme=next(c.scheme for c in candidates if c.path is not None),
        bound=budget.name,
        verdict=_verdict(plain.verification, made.verification, budget, apart),
        candidates=candidates,
        chosen_on=chooser.images.origin,
        chosen_images=len(chooser.images),
    )
    return made, found


def _can_be_halved(judge: Judge, budget: DropTolerance) -> bool:
    """Whether one image of a half is worth no more than the budget."""
    half = len(judge.images) // 2
    return judge.images.split is not None and half > 0 and 100 / half <= budget.max_drop


def _kept_on_all(
    plain: Made,
    judge: Judge,
    options: ExportOptions,
    folder: Path,
    result: SearchResult,
    budget: DropTolerance,
    advance: Advance,
) -> tuple[Made, tuple[Candidate, ...]]:
    """The smallest that also keeps the budget on all images.

    Returns:
        The file, and all candidates; only its own has a path.
    """
    found = {id(c): replace(c, path=None) for c in result.candidates}
    fitting = sorted(
        (c for c in result.candidates if c.fits), key=lambda c: (c.size_bytes, c is not result.best)
    )
    for number, c in enumerate(fitting):
        made = plain
        if c.plan:
            # The search removes what it does not choose.
            again = folder / f'again-{number}{plain.path.suffix}'
            path = c.path or options.format.again(plain.path, c, again)
            made = replace(plain, path=path, verification=judge.score(path, options.precision))
        advance(1)
        reason = _against(plain.verification, made.verification, budget)
        found[id(c)] = replace(c, path=None if reason else made.path, reason=reason)
        if not reason:
            return made, tuple(found.values())
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
