"""File formats, found by their suffix.

Whatever makes, runs, compresses or describes a file asks the :class:`Format` of its suffix: the
exporter, ``CoreMLClassifier``, ``tools/test.py`` and the report. ``.mlpackage`` and ``.mlmodel``
are the first two. A third one is a subclass in a folder of its own, given to :func:`register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from mmengine.runner import CheckpointLoader

from ..checkpoints.download import program_loader
from ..errors import ExportError
from ..models.preprocessing import Preprocessing
from ..utils.files import PathLike
from .program.graph import Program
from .targets import EXPORT, FRONT_END, check_target, notes, system_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..utils.parity import Tolerance
    from .compress.activations import Batches
    from .compress.given import TrainedLayer
    from .compress.trained import Rounding
    from .compress.trial import Candidate
    from .runtime.loaded import LoadedProgram

CORE_ML, CORE_AI = 'coreml', 'coreai'


class Format(ABC):
    """One format of files.

    Attributes:
        suffix: of its files or packages, with the dot.
        name: in messages and summaries.
        title: of the forms that its files are, in tables.
        opens: whether a file's operations and weights can be read one by one, and executed so.
        inputs: kinds of input that its files can have, the default first.
        has_shapes: whether a file can take several sizes and batch sizes.
        runtime: what runs its files on a device: 'coreml' or 'coreai'.
        mixes_precision: whether a file can keep single operations in fp32, as precision 'auto'
            needs it.
    """

    suffix: ClassVar[str]
    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ('image', 'tensor')
    title: ClassVar[str] = 'Core ML'
    opens: ClassVar[bool] = True
    has_shapes: ClassVar[bool] = True
    runtime: ClassVar[str] = CORE_ML
    mixes_precision: ClassVar[bool] = False

    @abstractmethod
    def require(self) -> None:
        """Refuse where what writes such files is not installed.

        Raises:
            ProgramError, ExportError: names the extra that brings it.
        """

    @abstractmethod
    def convert(
        self,
        network: Any,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        options: Any,
        path: Path,
        keep_fp32: frozenset[str] = frozenset(),
    ) -> None:
        """Convert a network and save it to ``path``.

        Args:
            network: an ``export.network.Prepared``.
            preprocessing: what is baked in.
            labels: class labels in the order of the logits; none for features.
            options: an ``export.options.ExportOptions``.
            path: with the format's suffix.
            keep_fp32: operations that stay in fp32, for precision 'auto'.

        Raises:
            ExportError: the network cannot be converted.
        """

    def fp32_proposals(
        self, network: Any, preprocessing: Preprocessing, images: Tensor, tolerance: Tolerance
    ) -> Iterator[dict[str, tuple[str, str]]]:
        """Sets of operations to keep in fp32, each with its type and why; the smallest first.

        Of formats whose files cannot be opened; the last set is that of all operations. Names are
        those that :meth:`convert` takes.

        Args:
            network: an ``export.network.Prepared``.
            preprocessing: what is baked in.
            images: (N, C, H, W), pixels 0 to 255 in the program's order.
            tolerance: what outputs may differ by.
        """
        raise NotImplementedError

    @abstractmethod
    def load(self, path: PathLike, **options: Any) -> LoadedProgram:
        """Make a file ready to predict.

        Args:
            options: those of ``coreml.load_program``; ``arithmetic`` is 'fp16' to round as a device
                does, 'fp32' to compute with the weights as stored.

        Raises:
            ProgramError: the file cannot be read or executed.
        """

    @abstractmethod
    def describe(self, path: PathLike) -> Program:
        """Read what a file says of itself: interface, operations, metadata.

        Raises:
            ProgramError: the file cannot be read.
        """

    @abstractmethod
    def system(self, program: Program) -> str:
        """Oldest system that runs the file, e.g. 'iOS16'."""

    @abstractmethod
    def write_metadata(
        self,
        path: Path,
        user: Mapping[str, Any],
        standard: Mapping[str, str],
        described: str,
        outputs: Mapping[str, str],
    ) -> None:
        """Set the metadata of a file, as :func:`metadata.write_metadata`."""

    def check_and_note(self, program: Program, target: str, compute_units: str) -> tuple[str, ...]:
        """What a user should know before a device runs the file.

        Raises:
            ExportError: ``target`` does not run it; says what needs a newer system.
        """
        return ()

    def check_scheme(self, scheme: str, target: str) -> None:
        """Refuse a compression that files of this format cannot hold.

        Args:
            scheme: 'none', 'auto' or a fixed scheme.
            target: deployment target.

        Raises:
            ExportError: says what is allowed.
        """
        if scheme != 'none':
            self._refuse(scheme)

    def compress(self, source: Path, scheme: str, out: Path, calibration: Batches) -> Path:
        """Write ``source``, compressed by a fixed scheme, to ``out``.

        Args:
            calibration: images, for schemes that quantize activations.

        Raises:
            ExportError: the file cannot hold the scheme.
        """
        self._refuse(scheme)

    def check_rounding(self, rounding: Rounding, target: str, stored: bool) -> None:
        """Refuse what was trained rounded, and files of this format cannot hold.

        Args:
            rounding: of the network.
            target: deployment target.
            stored: whether weights are stored as their integers.

        Raises:
            ExportError: says what is needed.
        """
        if stored or rounding.activations:
            self._refuse('trained')

    def store_trained(self, source: Path, layers: Sequence[TrainedLayer], out: Path) -> Path:
        """Write ``source`` to ``out``, with the integers that layers were trained with.

        Raises:
            ExportError: the file cannot hold them, or a layer has no counterpart in it.
        """
        self._refuse('trained')

    def search(self, *args: Any, **options: Any) -> tuple[Candidate, ...]:
        """Look for the smallest file within a budget, for scheme 'auto'.

        The arguments are those of :func:`compress.search.search`. Of what was tried, only the best
        one's file is left.
        """
        self._refuse('auto')

    def rebuild_candidate(self, source: Path, candidate: Candidate, out: Path) -> Path:
        """Write the file of a candidate that a search has removed."""
        self._refuse(candidate.scheme)

    def _refuse(self, scheme: str) -> NoReturn:
        raise ExportError(
            f'compress {scheme!r}: a {self.suffix} stores its weights as they are; allowed: none'
        )


class CoreML(Format):
    """What both formats of Core ML have in common.

    What does the work is imported when it is asked for: every import of the package registers the
    formats.
    """

    def require(self) -> None:
        from .program import quiet

        quiet.coremltools()

    def convert(self, *args: Any, **options: Any) -> None:
        from .convert import convert_and_save

        convert_and_save(*args, **options)

    def load(self, path: PathLike, **options: Any) -> LoadedProgram:
        from .runtime.load import load_program

        return load_program(path, **options)

    def describe(self, path: PathLike) -> Program:
        from .program.read import read_program

        return read_program(path)

    def system(self, program: Program) -> str:
        return system_of(program.spec_version)

    def write_metadata(
        self,
        path: Path,
        user: Mapping[str, Any],
        standard: Mapping[str, str],
        described: str,
        outputs: Mapping[str, str],
    ) -> None:
        from .metadata import preview_metadata, write_metadata

        user = {**user, **preview_metadata(self.describe(path))}
        write_metadata(path, user, standard, described, outputs)

    def check_and_note(self, program: Program, target: str, compute_units: str) -> tuple[str, ...]:
        front_end = program.metadata.get(FRONT_END, EXPORT)
        return () if front_end == EXPORT else (f'converted from {front_end}',)

    def check_scheme(self, scheme: str, target: str) -> None:
        from .compress import check_scheme

        check_scheme(scheme, target, self.name)

    def compress(self, source: Path, scheme: str, out: Path, calibration: Batches) -> Path:
        from .compress import compress_file

        return compress_file(source, scheme, out, calibration)

    def check_rounding(self, rounding: Rounding, target: str, stored: bool) -> None:
        from .compress.trained import check_rounding

        check_rounding(rounding, target, self.name, stored)


class MLProgram(CoreML):
    """The current format, with a precision for each operation."""

    suffix = '.mlpackage'
    name = 'mlprogram'
    mixes_precision = True

    def search(self, *args: Any, **options: Any) -> tuple[Candidate, ...]:
        from .compress.search import search

        return search(*args, **options)

    def check_and_note(self, program: Program, target: str, compute_units: str) -> tuple[str, ...]:
        check_target(program, target)
        of_all = super().check_and_note(program, target, compute_units)
        return (*of_all, *notes(program, compute_units))

    def store_trained(self, source: Path, layers: Sequence[TrainedLayer], out: Path) -> Path:
        from .compress.given import store_trained

        return store_trained(source, layers, out)

    def rebuild_candidate(self, source: Path, candidate: Candidate, out: Path) -> Path:
        from .compress.apply import apply_plan
        from .compress.kmeans import Palettes

        return apply_plan(source, candidate.plan, out, Palettes())


class NeuralNetwork(CoreML):
    """The older format, which iOS 15 and every later one runs."""

    suffix = '.mlmodel'
    name = 'neuralnetwork'


#: Suffix to format.
FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Make a format known to exports, reports and checkpoint loading."""
    FORMATS[format.suffix] = format
    CheckpointLoader.register_scheme(
        prefixes=rf'.*\{format.suffix}/*$', loader=program_loader(format.title), force=True
    )


for _format in (MLProgram(), NeuralNetwork()):
    register(_format)


def format_of(path: PathLike) -> Format:
    """The format of a file that exists.

    Where the suffix is of no format, Core ML's reader takes the file, or says what it expects.
    """
    return FORMATS.get(Path(path).suffix, FORMATS[MLProgram.suffix])
