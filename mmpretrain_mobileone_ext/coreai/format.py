"""``.aimodel`` as a format of exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..coreml.formats import CORE_AI, Format, register
from ..coreml.program.graph import Program
from ..coreml.runtime.loaded import LoadedProgram
from ..errors import ProgramError
from ..utils.files import PathLike

if TYPE_CHECKING:
    from ..coreml.compress.activations import Batches
    from ..coreml.compress.given import TrainedLayer
    from ..coreml.compress.trained import Rounding
    from ..coreml.compress.trial import Candidate

_SYSTEM = 'iOS27'


class CoreAI(Format):
    """The format of iOS 27 and later: a program of tensors.

    What does the work is imported when it is asked for.
    """

    suffix = '.aimodel'
    name = 'Core AI'
    title = 'Core AI'
    opens = False
    mixes_precision = True
    inputs = ('tensor',)
    has_shapes = False
    runtime = CORE_AI

    def require(self) -> None:
        from .extra import converter

        converter()

    def convert(self, *args: Any, **options: Any) -> None:
        from .convert import convert_and_save

        convert_and_save(*args, **options)

    def fp32_proposals(self, *args: Any) -> Iterator[dict[str, tuple[str, str]]]:
        from .search import proposals

        return proposals(*args)

    def load(self, path: PathLike, **options: Any) -> LoadedProgram:
        from .interpreter import InterpretedAsset

        if options.get('backend', 'reference') != 'reference':
            raise ProgramError(f"{path}: an .aimodel is executed with backend='reference' only")
        if options.get('arithmetic') == 'ane':
            raise ProgramError(
                f"{path}: arithmetic 'ane' is not available for an .aimodel, which Apple's "
                'interpreter executes in its own; allowed: fp32, fp16'
            )
        return InterpretedAsset(path)

    def describe(self, path: PathLike) -> Program:
        from .interpreter import describe

        return describe(path)

    def system(self, program: Program) -> str:
        return _SYSTEM

    def check_scheme(self, scheme: str, target: str) -> None:
        from .compress import check_scheme

        check_scheme(scheme)

    def compress(self, source: Path, scheme: str, out: Path, calibration: Batches) -> Path:
        from .compress import compress_file

        return compress_file(source, scheme, out)

    def check_rounding(self, rounding: Rounding, target: str, stored: bool) -> None:
        """All of it can be held, and there is one target."""

    def store_trained(self, source: Path, layers: Sequence[TrainedLayer], out: Path) -> Path:
        from .trained import store_trained

        return store_trained(source, layers, out)

    def search(self, *args: Any, **options: Any) -> tuple[Candidate, ...]:
        from .compress import search_smallest

        # All files are for one target.
        source, folder, evaluate, baseline, max_drop, _, *progress = args
        return search_smallest(source, folder, evaluate, baseline, max_drop, *progress, **options)

    def rebuild_candidate(self, source: Path, candidate: Candidate, out: Path) -> Path:
        from ..coreml.compress.kmeans import Palettes
        from .compress import apply_plan

        return apply_plan(source, candidate.plan, out, Palettes())

    def write_metadata(
        self,
        path: Path,
        user: Mapping[str, Any],
        standard: Mapping[str, str],
        described: str,
        outputs: Mapping[str, str],
    ) -> None:
        from .interpreter import write_metadata

        own = dict(user, version=standard['versionString'], input=described, outputs=outputs)
        known = dict(
            author=standard['author'],
            license=standard['license'],
            modelDescription=standard['shortDescription'],
        )
        write_metadata(path, own, known)


register(CoreAI())
