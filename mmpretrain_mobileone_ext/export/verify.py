"""Compare saved files with the network they were made from, on images.

A :class:`Judge` runs the network once and every file on the same images; what it finds is a
:class:`Verification`. :func:`compare_at` does the same on noise, at one of the further shapes that
a file promises. How far a file may be from its network is a row of ``utils.parity.TOLERANCES``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from ..coreml.convert import INPUT, PROBABILITIES
from ..coreml.formats import format_of
from ..coreml.runtime.loaded import LoadedProgram
from ..errors import ParityError
from ..models.preprocessing import Preprocessing
from ..utils.accuracy import Answers
from ..utils.parity import TOLERANCES, Parity, Tolerance, widened, worst
from .data import Images, TestSplit, choose_images
from .options import Shape

#: Outputs of one batch by name; under PROBABILITIES (N, classes).
Outputs = dict[str, Tensor]
Network = Callable[[Tensor], Outputs]
Advance = Callable[[int], Any]
_KEPT_BYTES = 2**28  # pixels kept between files, rather than read again
_NOISE = 6  # images compared at a further shape
_RANGES = {'fp16': 'fp16', 'ane': "the Neural Engine's range"}


@dataclass(frozen=True)
class Verification:
    """What the comparison found.

    Attributes:
        parity: of the probabilities, or of the features.
        tolerance: name of the bound that applies.
        images: what was compared, in words.
        top1_reference, top1_candidate: share of correct labels, 0 to 1, of the network and of the
            file; None without labels.
        overflows: operation to count of values that became infinite.
        operations: operation type to count, in the file.
        system: oldest system that runs the file, e.g. 'iOS16'.
        rounding: relative error of the network's own fp32 against fp64; measured only where an fp32
            file does not meet the tolerance.
        answers: first class of every image; None for features.
        arithmetic: in which the file was executed, as ``LoadedProgram.arithmetic`` says it.
        chip: whose engine that is of; '' for none.
    """

    parity: Parity
    tolerance: str
    images: str
    top1_reference: Optional[float]
    top1_candidate: Optional[float]
    overflows: dict[str, int]
    operations: dict[str, int]
    system: str
    rounding: Optional[float] = None
    answers: Optional[Answers] = field(default=None, repr=False, compare=False)
    arithmetic: str = 'fp16'
    chip: str = ''

    @property
    def bound(self) -> Tolerance:
        """The tolerance, as wide as the network's own rounding asks for."""
        return widened(TOLERANCES[self.tolerance], self.rounding)

    @property
    def failure(self) -> Optional[str]:
        """Why the tolerance is not met, or None."""
        return self.parity.failure(self.bound)

    def require(self) -> None:
        """Raise unless the tolerance is met.

        Raises:
            ParityError: states the figures and operations that overflow.
        """
        what = 'nothing is written, the program differs from the network'
        try:
            self.parity.require(self.bound, what)
        except ParityError as error:
            if not self.overflows:
                raise
            names = ', '.join(f'{k} ({n})' for k, n in self.overflows.items())
            raise ParityError(
                f'{error}; values beyond {self.range} in {names}; try precision auto'
            ) from None

    @property
    def range(self) -> str:
        """Beyond which values became infinite, in words."""
        return _RANGES.get(self.arithmetic, 'fp16')


@dataclass(frozen=True)
class KeptOp:
    """An operation that stays in fp32.

    Attributes:
        name: in the saved file.
        type: MIL operation, e.g. ``'conv'``.
        why: in words, with figures.
    """

    name: str
    type: str
    why: str


@dataclass(frozen=True)
class VerifiedFile:
    """A verified file that has no name yet.

    Attributes:
        path: in the workspace.
        verification: of this file.
        kept: operations that stay in fp32, in the order of execution, where precision is 'auto'.
        size_bytes: of all of it with its metadata, once that is written.
    """

    path: Path
    verification: Verification
    kept: tuple[KeptOp, ...] = ()
    size_bytes: int = 0


def tolerance_of(precision: str, steps: bool = False) -> Tolerance:
    """What a file of this precision may differ by; 'auto' is mostly fp16.

    Args:
        steps: the network rounds its activations to 8 bits.
    """
    name = 'export-fp32' if precision == 'fp32' else 'export-fp16'
    return TOLERANCES[f'{name}-rounded-activations' if steps else name]


def load(path: Path, precision: str, arithmetic: str = 'fp16') -> LoadedProgram:
    """A file ready to be executed as a device computes it.

    Args:
        precision: of the file: 'fp32' computes in fp32, all others in ``arithmetic`` where the
            program says fp16.
        arithmetic: 'fp16', or 'ane' for that of the Neural Engine.
    """
    return format_of(path).load(path, arithmetic='fp32' if precision == 'fp32' else arithmetic)


class Judge:
    """Scores files against one network on the same images.

    The network runs once: its outputs are kept, and so are the pixels where they are few.

    Args:
        network: images (N, C, H, W), uint8 in data order, to its outputs.
        pre: what is baked into the files.
        images: what to compare on.
        exact: makes the same network in fp64; None where there is none.
        steps: the network rounds its activations to 8 bits.
        arithmetic: that of files which are not fp32: 'fp16' or 'ane'.
    """

    def __init__(
        self,
        network: Network,
        pre: Preprocessing,
        images: Images,
        exact: Optional[Callable[[], Network]] = None,
        steps: bool = False,
        arithmetic: str = 'fp16',
    ):
        self.steps = steps
        self.arithmetic = arithmetic
        self.images = images
        self._network = network
        self._exact = exact
        self._keep = len(images) * pre.bytes <= _KEPT_BYTES
        self._wanted: list[Outputs] = []
        self._labels: list[Optional[Tensor]] = []
        self._pixels: list[Tensor] = []
        self._pre = pre

    def tolerance(self, precision: str) -> Tolerance:
        """What a file of this precision may differ by."""
        return tolerance_of(precision, self.steps)

    def on(self, images: Images) -> Judge:
        """One for the same network on other images."""
        return Judge(self._network, self._pre, images, self._exact, self.steps, self.arithmetic)

    def score(
        self, path: Path, precision: str, advance: Advance = lambda count: None
    ) -> Verification:
        """Execute the file at ``path`` on all images.

        Args:
            precision: of the file, as for :func:`load`.
            advance: told the number of images done.

        Raises:
            ProgramError: the file uses an operation that cannot be executed.
        """
        loaded = load(path, precision, self.arithmetic)
        found = []
        for pixels in self._batches():
            found.append(loaded.predict_batch({INPUT: pixels.float()}))
            advance(len(pixels))
        wanted = _joined(self._wanted)
        candidate = _joined([{k: part[k] for k in wanted} for part in found])
        classes = PROBABILITIES in wanted
        answers = self._answers(wanted, candidate) if classes else None
        verification = Verification(
            parity=worst(wanted, candidate, classes=classes),
            tolerance=self.tolerance(precision).name,
            images=self.images.origin,
            top1_reference=_top1(answers and answers.of_reference),
            top1_candidate=_top1(answers),
            overflows=dict(loaded.overflows),
            operations=loaded.program.count_operations(),
            system=format_of(path).system(loaded.program),
            answers=answers,
            arithmetic=loaded.arithmetic,
            chip=loaded.chip,
        )
        if precision != 'fp32' or verification.failure is None:
            return verification
        return replace(verification, rounding=own_rounding(self._exact, self.images, wanted))

    def sample(self, count: int) -> Tensor:
        """The first pixels, at most ``count``, (N, C, H, W) in fp32."""
        batch, _ = next(self.images.chunks())
        return self._ordered(batch[:count]).float()

    def _ordered(self, batch: Tensor) -> Tensor:
        return batch.flip(1) if self._pre.flips else batch

    def _batches(self) -> Iterator[Tensor]:
        """Pixels in the program's order; the network runs the first time."""
        if self._pixels:
            yield from self._pixels
            return
        wanted, labels, kept = [], [], []
        for batch, truth in self.images.chunks():
            if not self._wanted:
                wanted.append(self._network(batch))
                labels.append(truth)
            pixels = self._ordered(batch)
            if self._keep:
                kept.append(pixels)
            yield pixels
        # Only now: a loop that was left early has not seen all.
        self._pixels = kept
        if not self._wanted:
            self._wanted, self._labels = wanted, labels

    def _answers(self, wanted: Outputs, found: Outputs) -> Answers:
        known = [labels for labels in self._labels if labels is not None]
        complete = len(known) == len(self._labels)
        return Answers(
            wanted[PROBABILITIES].argmax(1),
            found[PROBABILITIES].argmax(1),
            torch.cat(known) if complete else None,
        )


def _top1(answers: Optional[Answers]) -> Optional[float]:
    """Share of right labels; None where there are none."""
    if answers is None or answers.labels is None:
        return None
    return float(answers.right.double().mean())


def own_rounding(
    exact: Optional[Callable[[], Network]], images: Images, wanted: Outputs
) -> Optional[float]:
    """Relative error of a network's fp32 outputs against fp64.

    Args:
        exact: makes the network in fp64.
        images: what the outputs are of.
        wanted: the outputs in fp32.

    Returns:
        None where the network does not compute in fp64.
    """
    if exact is None:
        return None
    try:
        network = exact()
        found = _joined([network(batch) for batch, _ in images.chunks()])
        return worst(found, wanted).relative
    # Forward functions of any network run here; not all know fp64.
    except (ParityError, RuntimeError, TypeError, ValueError):
        return None


def in_double(model: Any) -> Any:
    """A copy of a network in fp64."""
    return copy.deepcopy(model).double().eval()


def classifier(model: Any, dtype: torch.dtype = torch.float32) -> Network:
    """Probabilities by the model's own pre- and post-processing.

    Args:
        dtype: of its weights.
    """

    @torch.no_grad()
    def network(batch: Tensor) -> Outputs:
        data = model.data_preprocessor({'inputs': batch}, False)
        samples = model(data['inputs'].to(dtype), mode='predict')
        return {PROBABILITIES: torch.stack([s.pred_score for s in samples])}

    return network


def compare_at(loaded: LoadedProgram, network: Network, shape: Shape, flips: bool) -> Parity:
    """Run program and network on at least six images of seeded noise.

    Every figure is that of the worst output.

    Args:
        loaded: the program.
        network: images (N, C, H, W), uint8 in data order, to the outputs.
        shape: (N, C, H, W) as declared; N images go in as one input.
        flips: whether the channels are reversed for the program.

    Raises:
        ProgramError: the program does not run at this shape.
        ParityError: the outputs differ in shape.
    """
    count = shape[0]
    noise = next(choose_images(TestSplit(), 'none', (1, *shape[1:])).chunks())
    wanted_images = count * -(-_NOISE // count)
    copies = -(-wanted_images // len(noise[0]))
    images = noise[0].repeat(copies, 1, 1, 1)[:wanted_images]
    pixels = (images.flip(1) if flips else images).float()
    wanted = network(images)
    found = loaded.predict_batch({INPUT: pixels}, chunk_size=count if count > 1 else _NOISE)
    return worst(wanted, {key: found[key] for key in wanted}, classes=PROBABILITIES in wanted)


def _joined(parts: list[Outputs]) -> Outputs:
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}
