"""Compression as a step of an export: within its bound, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..coreml.compress import DropTolerance, tolerance_for
from ..coreml.compress.given import Trained, TrainedLayer
from ..coreml.compress.trained import Rounding
from ..coreml.compress.trial import Candidate
from ..coreml.convert import INPUT
from ..errors import ExportError, ParityError
from ..utils.accuracy import Answers, Verdict, verdict_on
from ..utils.text import Steps
from .options import ExportOptions
from .verify import Advance, Judge, Verification, VerifiedFile

_CALIBRATION = 64  # images whose values say how far activations reach
_OTHER_HALF = slice(1, None, 2)  # of Images.every_other


@dataclass(frozen=True)
class Compression:
    """How a compressed file was found.

    Attributes:
        plain: the file before compression, which stays in the workspace.
        scheme: what the weights are stored as, in words.
        verdict: on the half of the images that candidates were not scored on, where there are
            enough of them, else on all.
        candidates: all files that were scored, where a search was made, the uncompressed one first;
            only the chosen one has a path.
        chosen_on: the images that candidates were scored on, in words.
        chosen_images: how many they are.
    """

    plain: VerifiedFile
    scheme: str
    verdict: Verdict
    candidates: tuple[Candidate, ...] = ()
    chosen_on: str = ''
    chosen_images: int = 0

    @property
    def bound(self) -> str:
        """Name of the tolerance that was met."""
        return self.verdict.bound_name

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


def compression_of(
    options: ExportOptions, rounding: Rounding, quantized: str = ''
) -> ExportOptions:
    """``options`` with a scheme, where none was named: what was trained, if that can be stored.

    Args:
        rounding: of the network.
        quantized: coreai-opt's preset; files of such a network hold its integers from the first.

    Raises:
        ExportError: the scheme is not for such a network, or the file cannot hold what was trained.
    """
    asked = options.compress
    if quantized:
        if asked not in (None, Trained.name):
            raise ExportError(
                f'compress {asked!r}: coreai-opt trained the network as {quantized}, and its file '
                "holds these integers; allowed: 'trained'"
            )
        weights, _, activations = quantized[1:].partition('a')
        held = Rounding((int(weights),), (int(activations),) if activations else ())
        options.format.check_rounding(held, options.deployment_target, stored=True)
        return replace(options, compress='none')
    if not rounding:
        if asked == Trained.name:
            raise ExportError(
                "compress 'trained': the network was not trained with integers; train it with "
                'QuantizationHook (finetune: --quantize 8 or 4), or name another scheme'
            )
        return replace(options, compress=asked or 'none')
    if asked not in (None, 'none', Trained.name):
        raise ExportError(
            f'compress {asked!r}: the network was trained with {rounding.words}, which another '
            "rounding would spoil; allowed: 'trained' or 'none'"
        )
    if asked is None:
        dense = options.outputs == 'features' or options.format.name == 'neuralnetwork'
        asked = 'none' if dense else Trained.name
    stored = asked == Trained.name
    options.format.check_rounding(rounding, options.deployment_target, stored)
    return replace(options, compress=asked)


def compress(
    plain: VerifiedFile,
    judge: Judge,
    options: ExportOptions,
    folder: Path,
    steps: Steps,
    layers: Sequence[TrainedLayer] = (),
) -> tuple[VerifiedFile, Compression]:
    """Compress ``plain`` as ``options`` say.

    Args:
        plain: not changed.
        judge: scores on the images that ``plain`` was verified on.
        folder: for what is made.
        layers: of the network, that were trained rounded; for 'trained'.

    Returns:
        The compressed file, and how it was found.

    Raises:
        ParityError: the file predicts worse than its bound allows.
        ExportError: a scheme that does not fit the file.
    """
    scheme = options.compress or 'none'  # which compression_of settled
    if scheme == 'auto':
        return _searched(plain, judge, options, folder, steps)
    path = folder / 'compressed' / options.out.name
    path.parent.mkdir()
    is_trained = scheme == Trained.name
    with steps.step(f'compress {scheme}'):
        if is_trained:
            options.format.store_trained(plain.path, layers, path)
        else:
            options.format.compress(plain.path, scheme, path, [{INPUT: judge.sample(_CALIBRATION)}])
    with steps.step('verify compressed', total=len(judge.images)) as advance:
        after = judge.score(path, options.precision, advance)
    if is_trained:
        after.require()
    bound = tolerance_for(scheme, options.max_drop)
    if is_trained and judge.steps and not bound.from_user:
        bound = replace(
            bound, name=f'{bound.name}-with-steps', max_drop=Trained.max_drop_with_steps
        )
    verdict = _verdict(plain.verification, after, bound)
    failure = bound.failure(verdict.loss.points, after.parity.num_samples)
    if failure is None and not after.parity.relative < float('inf'):
        failure = 'its output is not finite'
    if failure is not None:
        raise ParityError(f'nothing is written, compress {scheme}: {failure}')
    made = replace(plain, path=path, verification=after)
    return made, Compression(plain, scheme, verdict)


def _searched(
    plain: VerifiedFile, judge: Judge, options: ExportOptions, folder: Path, steps: Steps
) -> tuple[VerifiedFile, Compression]:
    """Chosen on one half of the images where a half can tell the budget."""
    budget = tolerance_for('auto', options.max_drop)
    half = len(judge.images) // 2
    # One image of a half is worth no more than the budget.
    apart = judge.images.split is not None and half > 0 and 100 / half <= budget.max_drop
    chooser = judge.on(judge.images.every_other()) if apart else judge
    candidates = options.format.search(
        plain.path,
        folder,
        lambda path: chooser.score(path, options.precision),
        chooser.score(plain.path, options.precision) if apart else plain.verification,
        budget.max_drop,
        options.deployment_target,
        steps,
    )

    def make(number: int) -> VerifiedFile:
        candidate = candidates[number]
        if not candidate.plan:
            return plain
        # The search removes what it does not choose.
        again = folder / f'again-{number}{plain.path.suffix}'
        path = candidate.path or options.format.rebuild_candidate(plain.path, candidate, again)
        return replace(plain, path=path, verification=judge.score(path, options.precision))

    with steps.step('verify compressed') as advance:
        best, told = _kept_on_all(plain, candidates, make, budget, advance)
    found = Compression(
        plain=plain,
        scheme=next(c.scheme for c in told if c.path is not None),
        verdict=_verdict(plain.verification, best.verification, budget, apart),
        candidates=told,
        chosen_on=chooser.images.origin,
        chosen_images=len(chooser.images),
    )
    return best, found


def _kept_on_all(
    plain: VerifiedFile,
    candidates: Sequence[Candidate],
    make: Callable[[int], VerifiedFile],
    budget: DropTolerance,
    advance: Advance,
) -> tuple[VerifiedFile, tuple[Candidate, ...]]:
    """The smallest that also keeps the budget on all images.

    Returns:
        The file, and all candidates; only its own has a path.
    """
    told = [replace(c, path=None) for c in candidates]
    order = sorted(range(len(told)), key=lambda i: (told[i].size_bytes, candidates[i].path is None))
    for i in order:
        if not candidates[i].fits:
            continue
        made = make(i)
        advance(1)
        reason = _against(plain.verification, made.verification, budget)
        told[i] = replace(told[i], path=None if reason else made.path, reason=reason)
        if not reason:
            return made, tuple(told)
    raise AssertionError('the file before compression loses nothing')


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
