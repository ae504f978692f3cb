"""What a user may ask of an export, checked before anything is done.

Core ML prepares the default shape, the first, when it loads the file; the
first prediction at another one takes longer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from ..coreml.compress.scheme import check_scheme
from ..coreml.targets import COMPUTE_UNITS, DEFAULT_TARGET, TARGETS, check_compute_units
from ..errors import ExportError
from ..models.preprocessing import Preprocessing
from ..utils.accuracy import DEFAULT_DROP
from ..utils.checks import boolean, number, one_of, path, sequence, text
from ..utils.files import check_apart, check_free

FORMATS = {'.mlpackage': 'mlprogram', '.mlmodel': 'neuralnetwork'}
PRECISIONS = ('fp16', 'fp32', 'auto')
INPUTS = ('image', 'tensor')
OUTPUTS = ('class', 'features')
_MAX_SIDE = 8192
#: What coremltools documents for ``EnumeratedShapes``.
MAX_SHAPES = 128

Shape = tuple[int, int, int, int]
ImageSize = Union[None, int, str, Sequence[Union[int, str]]]
Classes = Union[None, str, 'os.PathLike[str]', Sequence[str]]


@dataclass(frozen=True)
class ExportOptions:
    """A checked request; the arguments are those of ``export_coreml``.

    Attributes:
        out: target, with suffix ``.mlpackage`` or ``.mlmodel``.
        compress: 'none', 'auto' or a scheme of ``compress.SCHEMES``.
        max_drop: percentage points of top-1 that compression may cost; None
            for the scheme's own bound.
        image_size: (H, W) in pixels, None to read it from the config.
        extra_sizes: further (H, W) that the program accepts.
        batch_sizes: numbers of images that the program accepts at a time,
            increasing, 1 among them.
        outputs: 'class' (label and probabilities), or 'features': what the
            backbone returns, one output for each of its ``out_indices``.
        verify_data: 'test', 'none' or the number of images as an int; None
            means 100, and 'test' where compression is 'auto'.
        swift: folder for a Swift package, None for none.
        report: folder for a report page, None for none.

    Raises:
        ExportError: states the value and what is allowed.
    """

    out: Path
    precision: str = 'fp16'
    deployment_target: str = DEFAULT_TARGET
    compute_units: str = 'ALL'
    input: str = 'image'
    outputs: str = 'class'
    compress: str = 'none'
    max_drop: Optional[float] = None
    classes: Classes = None
    image_size: Any = None
    extra_sizes: Any = ()
    batch_sizes: Any = (1,)
    verify_data: Any = None
    force: bool = False
    author: str = ''
    license: str = ''
    swift: Optional[Path] = None
    report: Optional[Path] = None

    def __post_init__(self) -> None:
        boolean('force', self.force, ExportError)
        for name in ('compress', 'author', 'license'):
            text(name, getattr(self, name), ExportError)
        _check_classes(self.classes)
        for name, allowed in (
            ('precision', PRECISIONS),
            ('deployment_target', TARGETS),
            ('compute_units', COMPUTE_UNITS),
            ('input', INPUTS),
            ('outputs', OUTPUTS),
        ):
            one_of(name, getattr(self, name), allowed, ExportError)
        check_compute_units(self.compute_units, self.deployment_target)
        set_ = object.__setattr__
        set_(self, 'out', _checked_out(self.out, self.force))
        check_scheme(self.compress, self.deployment_target, self.format)
        self._check_together()
        set_(self, 'image_size', checked_size(self.image_size))
        set_(
            self,
            'extra_sizes',
            tuple(
                checked_size(_split(s), 'extra_sizes')
                for s in sequence('extra_sizes', self.extra_sizes, ExportError)
            ),
        )
        set_(self, 'batch_sizes', _checked_batches(self.batch_sizes))
        set_(self, 'max_drop', _checked_drop(self.max_drop, self.compress))
        default = 'test' if self.compress == 'auto' else 100
        set_(
            self,
            'verify_data',
            checked_verify(default if self.verify_data is None else self.verify_data),
        )
        for name in ('swift', 'report'):
            set_(self, name, _checked_folder(name, getattr(self, name), self.force))
        check_apart(
            {'out': self.out, 'swift': self.swift, 'report': self.report},
            {'classes': self.classes},
            ExportError,
            package='out',
            shared=('report',),
        )

    def _check_together(self) -> None:
        if self.precision == 'auto' and self.format != 'mlprogram':
            raise ExportError(
                f'{self.out}: precision auto chooses by '
                'operation, which only a .mlpackage can state'
            )
        if self.outputs == 'class':
            return
        for name, unset in (
            ('compress', 'none'),
            ('swift', None),
            ('report', None),
            ('classes', None),
        ):
            if getattr(self, name) != unset:
                raise ExportError(
                    f'{name} needs classes, and outputs is features; leave {name} out'
                )

    @property
    def format(self) -> str:
        """``'mlprogram'`` or ``'neuralnetwork'``, by the suffix."""
        return FORMATS[self.out.suffix]

    @property
    def is_classifier(self) -> bool:
        """Whether the program can say a label.

        A classifier of Core ML takes one sample at a time: with a flexible
        batch it converts, and no device compiles it
        (apple/coremltools#2764). Several samples get their probabilities as
        one array (N, classes) instead.
        """
        return self.outputs == 'class' and self.batch_sizes == (1,)

    def input_shapes(self, pre: Preprocessing) -> tuple[Shape, ...]:
        """Every shape (N, C, H, W) of the input, the default first.

        Each of ``batch_sizes`` goes with each size. Core ML prepares the
        default shape when it loads the file; the first prediction at another
        one takes longer.

        Raises:
            ExportError: an image input with several images at a time, or
                more shapes than Core ML takes.
        """
        if self.input == 'image' and self.batch_sizes != (1,):
            raise ExportError(
                f'batch_sizes is {self.batch_sizes}, but an image input takes '
                'one image at a time (apps batch them with '
                "MLArrayBatchProvider); give input='tensor' (--input tensor) "
                'or batch size 1'
            )
        sizes = dict.fromkeys([pre.size, *self.extra_sizes])
        shapes = tuple((batch, pre.channels, *size) for batch in self.batch_sizes for size in sizes)
        if len(shapes) > MAX_SHAPES:
            raise ExportError(
                f'{len(sizes)} sizes x {len(self.batch_sizes)} batch sizes '
                f'are {len(shapes)} shapes; Core ML takes {MAX_SHAPES} at '
                'most'
            )
        return shapes


def _check_classes(classes: Any) -> None:
    if classes is None:
        return
    if isinstance(classes, (str, os.PathLike)):
        path('classes', classes, ExportError)
        return
    for label in sequence('classes', classes, ExportError):
        text('classes has a label that', label, ExportError)


def _checked_out(out: Any, force: bool) -> Path:
    if out is None or str(out) == '':
        raise ExportError('no output is given; name a .mlpackage or .mlmodel')
    target = Path(path('out', out, ExportError)).expanduser()
    if target.suffix not in FORMATS:
        raise ExportError(
            f'{target}: unknown suffix {target.suffix!r}; allowed: .mlpackage '
            '(mlprogram), .mlmodel (neuralnetwork)'
        )
    if not target.parent.is_dir():
        raise ExportError(f'{target}: the folder {target.parent} does not exist; make it first')
    if not os.access(target.parent, os.W_OK):
        raise ExportError(f'{target}: the folder {target.parent} is not writable')
    check_free(target, force)
    return target


def checked_size(size: Any, name: str = 'image_size') -> Optional[tuple[int, int]]:
    """(H, W) in pixels of H, [H] or [H, W]; None stays.

    Raises:
        ExportError: it is none of these.
    """
    if size is None:
        return None
    items = list(size) if isinstance(size, (list, tuple)) else [size]
    sides = [_whole(i) for i in items]
    if len(sides) not in (1, 2) or not all(1 <= s <= _MAX_SIDE for s in sides):
        shown = ' '.join(' '.join(str(i) for i in items).split())[:200]
        raise ExportError(
            f'{name} is {shown!r}; allowed: H or H W in whole pixels, 1 to {_MAX_SIDE}'
        )
    return sides[0], sides[-1]


def _split(size: Any) -> Any:
    """'192x256' as it stands on a command line."""
    return size.split('x') if isinstance(size, str) else size


def _checked_drop(drop: Any, compress: str) -> Optional[float]:
    if drop is None:
        return DEFAULT_DROP if compress == 'auto' else None
    if compress == 'none':
        raise ExportError(f'max_drop is {drop} without compression; give --compress')
    return float(number('max_drop', drop, 0, 100, ExportError, also='percentage points, '))


def _checked_folder(name: str, folder: Any, force: bool) -> Optional[Path]:
    if folder is None:
        return None
    target = Path(path(name, folder, ExportError)).expanduser()
    if not target.parent.is_dir():
        raise ExportError(f'{name}: the folder {target.parent} does not exist; make it first')
    if os.path.lexists(target) and not force:
        raise ExportError(f'{name}: {target} exists; give --force (force=True) to replace it')
    return target


def _checked_batches(sizes: Any) -> tuple[int, ...]:
    found = [_whole(s) for s in sequence('batch_sizes', sizes, ExportError)]
    if not found or min(found) < 1:
        raise ExportError(f'batch_sizes is {sizes!r}; allowed: whole numbers of images, at least 1')
    return tuple(sorted({1, *found}))


def checked_verify(value: Any) -> Union[int, str]:
    """'test', 'none' or a number of images, at least 1.

    Raises:
        ExportError: it is none of these.
    """
    if isinstance(value, str) and value in ('test', 'none'):
        return value
    count = _whole(value)
    if count < 1:
        raise ExportError(
            f"verify_data is {value!r}; allowed: 'test', 'none' or a number of images, at least 1"
        )
    return count


def _whole(value: Any) -> int:
    """A whole number, also as a command line has it; 0 for all else."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if type(value) is int else 0
