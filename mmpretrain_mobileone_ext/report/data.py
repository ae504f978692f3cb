"""All that a report shows, as plain data; nothing here is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from rich.table import Table

from ..utils.accuracy import DEFAULT_DROP, Confusion, Verdict
from ..utils.files import write_whole
from ..utils.text import interval_of, share
from .engine import EngineReport
from .layers import OperationDrift, WeightRange


@dataclass(frozen=True)
class FormResult:
    """One form of a network, scored on a whole split.

    Attributes:
        form: what it is, for a person.
        top1: accuracy in percent.
        size_bytes: its weights (or package) on disk.
        agreement: percent of images with the reference form's top-1.
        num_images: images scored.
        source: file name.
        top1_low, top1_high: interval of ``top1``, percent; computed.
    """

    form: str
    top1: float
    size_bytes: int
    agreement: float
    num_images: int
    source: str
    top1_low: Optional[float] = None
    top1_high: Optional[float] = None

    def __post_init__(self) -> None:
        low, high = interval_of(self.top1, self.num_images) or (None, None)
        object.__setattr__(self, 'top1_low', low)
        object.__setattr__(self, 'top1_high', high)


def forms_table(results: Sequence[FormResult], title: Optional[str] = None) -> Table:
    """A table with one row a form, for a terminal or a log."""
    table = Table(title=title)
    table.add_column('form')
    for name in ('top-1 %', 'size KiB', 'agreement %', 'images'):
        table.add_column(name, justify='right')
    for r in results:
        table.add_row(
            r.form,
            share(r.top1, r.num_images),
            f'{r.size_bytes / 1024:.0f}',
            f'{r.agreement:.2f}',
            str(r.num_images),
        )
    return table


def write_forms_json(results: Sequence[FormResult], path: Path) -> Path:
    """Write results as a JSON list of objects with the fields above."""
    text = json.dumps([asdict(r) for r in results], indent=2) + '\n'
    return write_whole(path, lambda made: made.write_text(text, encoding='utf-8'))


@dataclass(frozen=True)
class FormRow:
    """One form of the network; None stands for "not measured".

    Attributes:
        form: what it is, unique in a report.
        kind: 'torch', 'coreml' (computed as the file says, like a device) or 'check' (a Core ML
            file computed in fp32, to see what the rounding costs).
        file: name of the file it was read from.
        size_bytes: of the weights (torch) or of the whole file.
        top1, top5: percent of images with the right label first, or among the first five.
        agreement: percent of images with the reference form's top-1.
        top1_low, top1_high: interval of ``top1``, percent.
        lost, gained: images that only the baseline form gets right, or only this one; without
            labels, like the reference form.
        psnr_db: of the probabilities against the reference form's; inf for equal ones.
        ops: operations of the program (Core ML), or ATen calls of one forward pass without views
            (torch).
        of: the form whose file a 'check' computes.
        note: what a reader should know about this row.
    """

    form: str
    kind: str = 'coreml'
    file: str = ''
    size_bytes: Optional[int] = None
    top1: Optional[float] = None
    top5: Optional[float] = None
    agreement: Optional[float] = None
    psnr_db: Optional[float] = None
    ops: Optional[int] = None
    of: str = ''
    note: str = ''
    top1_low: Optional[float] = None
    top1_high: Optional[float] = None
    lost: Optional[int] = None
    gained: Optional[int] = None

    @property
    def short(self) -> str:
        """Its name without what its kind says already."""
        name = self.form.split(' · ')[-1].removesuffix(' (torch, fp32)')
        # 'Core ML fp16, int8' -> 'int8', 'Core ML fp16' -> 'fp16'.
        name = name.split(', ', 1)[-1].removeprefix('Core ML ')
        return 'several schemes' if name.count(' x ') > 1 else name


@dataclass(frozen=True)
class Candidate:
    """One setting that a search for precision or compression tried.

    Attributes:
        scheme: e.g. 'palettize4'.
        size_bytes: of the file.
        top1, agreement: percent; None without labels.
        fits: whether it was within the bound.
        chosen: whether the search took it.
        note: why not, or what is special.
        kind: 'none' (the file before compression), 'fixed', 'layer' (one layer alone) or 'mixed';
            '' where only the scheme tells.
        lost_points: percentage points below the file before compression.
    """

    scheme: str
    size_bytes: Optional[int]
    top1: Optional[float]
    agreement: Optional[float]
    fits: bool
    chosen: bool = False
    note: str = ''
    kind: str = ''
    lost_points: Optional[float] = None

    @property
    def is_fixed(self) -> bool:
        """Whether all layers are stored in one way, as a user may ask."""
        if self.kind:
            return self.kind in ('none', 'fixed')
        return ' x ' not in self.scheme

    @property
    def is_compressed(self) -> bool:
        """Whether it is another file than the one before the search."""
        return self.scheme != 'none'


@dataclass(frozen=True)
class Drift:
    """Drift of every operation of one file, in execution order."""

    form: str
    images: int
    rows: tuple[OperationDrift, ...]


@dataclass(frozen=True)
class Guess:
    """What one form says about one image; probability in percent."""

    form: str
    short: str
    label: str
    probability: float
    right: Optional[bool] = None
    differs: bool = False


@dataclass(frozen=True)
class Disagreement:
    """An image for which some form has another label than the reference.

    Attributes:
        index: position in the split.
        truth: its label, None where it has none.
        guesses: one a form, in the order of the forms.
        png: the image after the test pipeline's resizing.
    """

    index: int
    truth: Optional[str]
    guesses: tuple[Guess, ...]
    png: bytes = field(default=b'', repr=False)


@dataclass(frozen=True)
class Mistake:
    """An image that gets a wrong label; probabilities in percent.

    Attributes:
        index: position in the split.
        file: its name, '' where the data set has no files.
        truth: its label.
        label: what is said of it, with ``probability``.
        truth_probability: what is left for its own label.
        png: the image after the test pipeline's resizing.
    """

    index: int
    file: str
    truth: str
    label: str
    probability: float
    truth_probability: float
    png: bytes = field(default=b'', repr=False)


@dataclass(frozen=True)
class ParityCheck:
    """One named bound and what was found.

    Attributes:
        form: what was compared with the reference.
        tolerance: name of the bound.
        bound: it in words.
        found: the figures in words.
        met: whether they are within it.
    """

    form: str
    tolerance: str
    bound: str
    found: str
    met: bool


@dataclass(frozen=True)
class Provenance:
    """Where everything came from.

    Attributes:
        command: as typed.
        created: ISO 8601 date and time with offset.
        config: file name; ``config_text`` its content.
        files: (name, SHA-256) of what was read.
        versions: by package.
        machine: in words.
        preprocessing: what an app does to a photo first, in words.
        inputs, outputs: of the Core ML files, in words.
    """

    command: str = ''
    created: str = ''
    config: str = ''
    config_text: str = field(default='', repr=False)
    files: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ''
    preprocessing: str = ''
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """A whole report.

    Attributes:
        title: of the page.
        forms: in the order of the table; at least one.
        images: what was scored, in words, e.g. 'all 540 images of the test split'.
        num_images: how many.
        reference: ``form`` that agreement and PSNR refer to.
        baseline: ``form`` that points are lost against; '': the reference.
        max_drop: percentage points of top-1 (of agreement, where there are no labels) that the
            recommended form may lose against it.
        chosen: ``form`` to recommend; None: the smallest Core ML form within ``max_drop``.
        accuracy: the verdict on ``chosen``, where its maker has one; None: that of ``lost`` and
            ``gained`` of the recommended form.
        chosen_on: images that candidates were scored on, in words, and ``chosen_images`` how many;
            '' and 0: those of the forms.
        disagreements: a choice of them, checks left out; ``num_disagreements`` counts all, None
            where nobody looked.
        mistakes: the worst ones of ``judged``, those first that it is surest of; ``confusion``
            counts all of them, None without labels.
        judged: ``form`` whose mistakes are shown.
        weight_ranges: of the weights as exported, before compression; those first that int8 fits
            worst.
        places: operation to what it is in the network, in words, where that is known.
        kept_fp32: (operation, reason) that a mixed precision file keeps in fp32.
        engine: what of each Core ML file runs on the Neural Engine.
        warnings: what should be read before the figures.
    """

    title: str
    forms: Sequence[FormRow]
    images: str
    num_images: int
    reference: str = ''
    baseline: str = ''
    max_drop: float = DEFAULT_DROP
    chosen: Optional[str] = None
    accuracy: Optional[Verdict] = None
    chosen_on: str = ''
    chosen_images: int = 0
    disagreements: Sequence[Disagreement] = ()
    num_disagreements: Optional[int] = None
    mistakes: Sequence[Mistake] = ()
    confusion: Optional[Confusion] = None
    judged: str = ''
    candidates: Sequence[Candidate] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    kept_fp32: Sequence[tuple[str, str]] = ()
    drift: Sequence[Drift] = ()
    weight_ranges: Sequence[WeightRange] = ()
    parity: Sequence[ParityCheck] = ()
    engine: Sequence[EngineReport] = ()
    warnings: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def labelled(self) -> bool:
        """Whether images have labels, so that there is a top-1."""
        return any(f.top1 is not None for f in self.forms)

    @property
    def shown(self) -> list[FormRow]:
        """Forms without the checks."""
        return [f for f in self.forms if f.kind != 'check']

    @property
    def main_candidates(self) -> list[Candidate]:
        """The fixed settings and the chosen one."""
        return [c for c in self.candidates if c.is_fixed or c.chosen]

    @property
    def tried(self) -> list[Candidate]:
        """All files that a search made."""
        return [c for c in self.candidates if c.is_compressed]

    def place(self, name: str) -> str:
        """What people call an operation."""
        return self.places.get(name, name)

    @property
    def searched_apart(self) -> bool:
        """Whether candidates were scored on other images than forms."""
        return 0 < self.chosen_images < self.num_images

    @property
    def baseline_form(self) -> Optional[FormRow]:
        """The row that points are lost against."""
        return self.form(self.baseline or self.reference)

    def checked(self) -> list[tuple[FormRow, FormRow]]:
        """Forms that were computed in fp32 too, with that check."""
        pairs = [(self.form(f.of), f) for f in self.forms if f.kind == 'check']
        return [(form, check) for form, check in pairs if form is not None]

    def form(self, name: Optional[str]) -> Optional[FormRow]:
        """The row of this name, or None."""
        return next((f for f in self.forms if f.form == name), None)


def plain(value: Any) -> Any:
    """Dataclasses, sequences and numbers as JSON has them.

    Infinity becomes the text 'inf' (``float`` reads it), nan becomes null; images are left out.
    """
    if hasattr(value, '__dataclass_fields__'):
        value = {k: getattr(value, k) for k in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if not isinstance(v, bytes)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and value in (float('inf'), -float('inf')):
        return str(value)
    return value
