"""What a user may ask of an export: the only list of its options.

Every option stands here once, with its default, its check, how a command line spells it and what it
means. ``export_coreml``, ``tools/export_coreml.py`` and ``CoreMLExportHook`` take theirs from
:class:`ExportOptions`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from ..coreml.targets import COMPUTE_UNITS, DEFAULT_TARGET, TARGETS, check_compute_units
from ..errors import ExportError
from ..utils import checks
from ..utils.accuracy import DEFAULT_DROP
from ..utils.files import PathLike, check_apart, check_free

if TYPE_CHECKING:
    from ..coreml.formats import Format
    from ..models.preprocessing import Preprocessing

#: What coremltools documents for ``EnumeratedShapes``.
MAX_SHAPES = 128
#: Stands for a file that holds the labels: a command line takes no list.
LABELS_FILE = 'LABELS.txt'
_MAX_SIDE = 8192

Shape = tuple[int, int, int, int]
Classes = Union[None, PathLike, Sequence[str]]


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


# The checks of single options: name and value in, the checked value out.


_boolean = partial(checks.boolean, error=ExportError)
_text = partial(checks.text, error=ExportError)


def _formats() -> dict[str, Format]:
    """By suffix. Their code needs torch, which the list of options does not."""
    from ..coreml.formats import FORMATS

    return FORMATS


def _target(name: str, out: Any) -> Path:
    formats = _formats()
    if out is None or str(out) == '':
        raise ExportError(f'no output is given; name a {" or ".join(formats)}')
    target = Path(checks.path(name, out, ExportError)).expanduser()
    if target.suffix not in formats:
        allowed = ', '.join(f'{f.suffix} ({f.name})' for f in formats.values())
        raise ExportError(f'{target}: unknown suffix {target.suffix!r}; allowed: {allowed}')
    if not target.parent.is_dir():
        raise ExportError(f'{target}: the folder {target.parent} does not exist; make it first')
    if not os.access(target.parent, os.W_OK):
        raise ExportError(f'{target}: the folder {target.parent} is not writable')
    return target


def _folder(name: str, folder: Any) -> Optional[Path]:
    if folder is None:
        return None
    target = Path(checks.path(name, folder, ExportError)).expanduser()
    if not target.parent.is_dir():
        raise ExportError(f'{name}: the folder {target.parent} does not exist; make it first')
    return target


def _classes(name: str, classes: Any) -> Classes:
    if classes is None or isinstance(classes, (str, os.PathLike)):
        return classes if classes is None else checks.path(name, classes, ExportError)
    for label in checks.sequence(name, classes, ExportError):
        _text(f'{name} has a label that', label)
    return classes


def _sizes(name: str, sizes: Any) -> tuple[Optional[tuple[int, int]], ...]:
    given = checks.sequence(name, sizes, ExportError)
    # '192x256' is how a command line has a pair.
    return tuple(checked_size(s.split('x') if isinstance(s, str) else s, name) for s in given)


def _batches(name: str, sizes: Any) -> tuple[int, ...]:
    found = [_whole(s) for s in checks.sequence(name, sizes, ExportError)]
    if not found or min(found) < 1:
        raise ExportError(f'{name} is {sizes!r}; allowed: whole numbers of images, at least 1')
    return tuple(sorted({1, *found}))


def _drop(name: str, drop: Any) -> Optional[float]:
    if drop is None:
        return None
    return float(checks.number(name, drop, 0, 100, ExportError, also='percentage points, '))


def _scheme(name: str, value: Any) -> Optional[str]:
    return None if value is None else _text(name, value)


def _verify(name: str, value: Any) -> Union[int, str, None]:
    return None if value is None else checked_verify(value)


def _option(
    help: str, check: Callable[[str, Any], Any], spell: Callable[[Any], str] = str, **argument: Any
) -> dict[str, Any]:
    """What a field of :class:`ExportOptions` knows beside its default.

    Args:
        help: what it means, for ``--help`` and Python's ``help``.
        check: name and value to the checked value; raises ``ExportError``.
        spell: a value, or one item of a list, as a word on a command line.
        argument: what ``ArgumentParser.add_argument`` takes beyond that.
    """
    return dict(help=help, check=check, spell=spell, argument=argument)


def _choice(allowed: tuple[str, ...], help: str, optional: bool = False) -> dict[str, Any]:
    def check(name: str, value: Any) -> Optional[str]:
        if optional and value is None:
            return None
        return checks.one_of(name, value, allowed, ExportError)

    return _option(f'{", ".join(allowed)}; {help}', check, metavar='X')


@dataclass(frozen=True)
class ExportOptions:
    """A checked request.

    After the checks ``out``, ``swift`` and ``report`` are a ``Path``, ``image_size`` is (H, W) in
    pixels, ``extra_sizes`` holds such pairs, ``batch_sizes`` increases and holds 1, and
    ``verify_data`` is 'test', 'none' or an int. ``max_drop`` stays None where the scheme's own
    bound holds.

    Raises:
        ExportError: states the value and what is allowed.
    """

    out: Path = field(
        metadata=_option(
            'the file to write: .mlpackage (mlprogram), .mlmodel (neuralnetwork) or .aimodel '
            '(Core AI, with the extra [coreai])',
            _target,
            required=True,
        )
    )
    precision: str = field(
        default='fp16',
        metadata=_choice(
            ('fp16', 'fp32', 'auto'),
            'auto: fp16 but for the smallest set of operations that the tolerance needs in '
            'fp32; for a .mlmodel, of the weights',
        ),
    )
    deployment_target: str = field(
        default=DEFAULT_TARGET,
        metadata=_choice(TARGETS, 'the oldest iOS; a .mlmodel runs on every one of them'),
    )
    compute_units: str = field(
        default='ALL',
        metadata=_choice(
            COMPUTE_UNITS,
            "a file cannot enforce it: it is metadata for the app's MLModelConfiguration",
        ),
    )
    input: Any = field(
        default=None,
        metadata=_choice(
            ('image', 'tensor'),
            "tensor: float32 (1, C, H, W) with the same pixels in the network's channel order "
            '(default: image; of an .aimodel, which has no images, tensor)',
            optional=True,
        ),
    )
    outputs: str = field(
        default='class',
        metadata=_choice(
            ('class', 'features'),
            'class: label and probabilities; features: what the backbone returns, feature_<i> '
            'for each of its out_indices, for detectors and segmentors',
        ),
    )
    classes: Classes = field(
        default=None,
        metadata=_option(
            'a file with one label a line, in Python also the labels '
            "(default: the checkpoint's or the data set's)",
            _classes,
            metavar='FILE',
        ),
    )
    image_size: Any = field(
        default=None,
        metadata=_option(
            "H or H W in pixels (default: the test pipeline's)",
            lambda name, size: checked_size(size, name),
            nargs='+',
            metavar='N',
        ),
    )
    verify_data: Any = field(
        default=None,
        metadata=_option(
            'images to compare on: test, the whole test split; N, so many of it; none, seeded '
            "noise, and no data set is read (default: 100; with compress 'auto', test)",
            _verify,
            metavar='test|N|none',
        ),
    )
    verify_arithmetic: str = field(
        default='fp16',
        metadata=_choice(
            ('fp16', 'ane'),
            'what the file is executed in to compare it: fp16, or as the Neural Engine computes, '
            'where products become infinite from 32768 on (not of an .aimodel)',
        ),
    )
    compress: Optional[str] = field(
        default=None,
        metadata=_option(
            'none, int8, int4, palettize8, 6, 4, 3, 2 or 1, prune<percent>, one of them with what '
            'is left in a code (prune<percent>+int8, prune<percent>+palettize<bits>), joint, w8a8, '
            'auto: the smallest file within max-drop, or trained: the integers that the network '
            'was trained with (default: trained for such a network, else none)',
            _scheme,
            metavar='SCHEME',
        ),
    )
    max_drop: Optional[float] = field(
        default=None,
        metadata=_option(
            'percentage points of top-1 (of agreement, without labels) that compression may '
            f"cost (default: of auto {DEFAULT_DROP:g}, else the scheme's own)",
            _drop,
            type=float,
            metavar='P',
        ),
    )
    extra_sizes: Any = field(
        default=(),
        metadata=_option(
            'further image sizes that the program accepts',
            _sizes,
            lambda size: 'x'.join(map(str, size)) if isinstance(size, (list, tuple)) else str(size),
            nargs='+',
            metavar='HxW',
        ),
    )
    batch_sizes: Any = field(
        default=(1,),
        metadata=_option(
            "numbers of images that it accepts at a time; more than 1 needs input 'tensor'",
            _batches,
            nargs='+',
            metavar='N',
        ),
    )
    swift: Optional[Path] = field(
        default=None,
        metadata=_option('write a Swift package with the model in it', _folder, metavar='DIR'),
    )
    report: Optional[Path] = field(
        default=None,
        metadata=_option(
            'write a page and JSON that show every form tried', _folder, metavar='DIR'
        ),
    )
    force: bool = field(
        default=False, metadata=_option('replace an existing file', _boolean, action='store_true')
    )
    author: str = field(default='', metadata=_option("the file's author, as Xcode shows it", _text))
    license: str = field(
        default='', metadata=_option("the file's license, as Xcode shows it", _text)
    )
    model_version: str = field(
        default='',
        metadata=_option(
            "the file's version, as Xcode shows it (default: the beginning of the checkpoint's "
            'SHA-256)',
            _text,
        ),
    )
    description: str = field(
        default='',
        metadata=_option(
            "the file's description, as Xcode shows it (default: classes, input size, and the "
            'accuracy with its 95 % interval where images with labels were verified)',
            _text,
        ),
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = option.metadata['check'](option.name, getattr(self, option.name))
            self._set(option.name, value)
        if self.input is None:
            self._set('input', self.format.inputs[0])
        self._check_together()
        auto = self.compress == 'auto'
        if self.verify_data is None:
            self._set('verify_data', 'test' if auto else 100)
        if self.max_drop is None and auto:
            self._set('max_drop', DEFAULT_DROP)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        check_compute_units(self.compute_units, self.deployment_target)
        check_free(self.out, self.force)
        scheme = 'none' if self.compress is None else self.compress
        self.format.check_scheme(scheme, self.deployment_target)
        self._check_format()
        if self.precision == 'auto' and not self.format.mixes_precision:
            raise ExportError(
                f'{self.out}: precision auto chooses by operation, which only a .mlpackage or an '
                '.aimodel can state'
            )
        self._check_arithmetic()
        if self.max_drop is not None and scheme == 'none':
            raise ExportError(f'max_drop is {self.max_drop} without compression; give --compress')
        if self.outputs == 'features':
            for name in ('compress', 'swift', 'report', 'classes'):
                if getattr(self, name) not in (OPTIONS[name].default, 'none'):
                    raise ExportError(
                        f'{name} needs classes, and outputs is features; leave {name} out'
                    )
        for name in ('swift', 'report'):
            folder = getattr(self, name)
            if folder is not None and os.path.lexists(folder) and not self.force:
                raise ExportError(
                    f'{name}: {folder} exists; give --force (in Python force=True) to replace it'
                )
        self.check_apart_from(classes=self.classes)

    def _check_arithmetic(self) -> None:
        given = f'verify_arithmetic {self.verify_arithmetic!r}'
        if self.verify_arithmetic == 'fp16':
            return
        if not self.format.opens:
            raise ExportError(
                f"{given}: not for {self.format.suffix} files, which Apple's interpreter executes; "
                'allowed: fp16'
            )
        if self.precision == 'fp32':
            raise ExportError(
                f'{given}: the Neural Engine runs nothing of a file with precision fp32; give '
                'precision fp16 or auto'
            )

    def _check_format(self) -> None:
        """Refuse what files of the format cannot be."""
        if self.input not in self.format.inputs:
            raise ExportError(
                f'input is {self.input!r}; allowed for {self.format.suffix}: '
                f'{", ".join(self.format.inputs)}'
            )
        for name, needs in (
            ('extra_sizes', self.format.has_shapes),
            ('batch_sizes', self.format.has_shapes),
        ):
            if not needs and getattr(self, name) != OPTIONS[name].default:
                raise ExportError(
                    f'{name}: not for {self.format.suffix} files; leave it out, or write a '
                    '.mlpackage'
                )

    def check_apart_from(self, **inputs: Any) -> None:
        """Refuse to write over what is read, or two things to one place.

        Args:
            inputs: paths by name; whatever is no path is left alone.

        Raises:
            ExportError: names both.
        """
        outputs = {'out': self.out, 'swift': self.swift, 'report': self.report}
        check_apart(outputs, inputs, ExportError, package='out', shared=('report',))

    @property
    def format(self) -> Format:
        """What is written, by the suffix."""
        return _formats()[self.out.suffix]

    @property
    def is_classifier(self) -> bool:
        """Whether the program can say a label.

        A classifier of Core ML takes one sample at a time: with a flexible batch it converts, and
        no device compiles it (apple/coremltools#2764). Several samples get their probabilities as
        one array (N, classes) instead.
        """
        return self.outputs == 'class' and self.batch_sizes == (1,)

    def input_shapes(self, pre: Preprocessing) -> tuple[Shape, ...]:
        """Every shape (N, C, H, W) of the input, the default first.

        Each of ``batch_sizes`` goes with each size. Core ML prepares the default shape when it
        loads the file; the first prediction at another one takes longer.

        Raises:
            ExportError: an image input with several images at a time, or more shapes than Core ML
                takes.
        """
        if self.input == 'image' and self.batch_sizes != (1,):
            raise ExportError(
                f'batch_sizes is {self.batch_sizes}, but an image input takes '
                'one image at a time (apps batch them with '
                "MLArrayBatchProvider); give --input tensor (in Python input='tensor') "
                'or batch size 1'
            )
        sizes = dict.fromkeys([pre.size, *self.extra_sizes])
        shapes = tuple((batch, pre.channels, *size) for batch in self.batch_sizes for size in sizes)
        if len(shapes) > MAX_SHAPES:
            raise ExportError(
                f'{len(sizes)} sizes x {len(self.batch_sizes)} batch sizes are {len(shapes)} '
                f'shapes; Core ML takes {MAX_SHAPES} at most'
            )
        return shapes


#: Name to field, in the order of the command line.
OPTIONS = {option.name: option for option in fields(ExportOptions)}


def flag(name: str) -> str:
    """An option's name on the command line."""
    return f'--{name.replace("_", "-")}'


def explained(name: str) -> str:
    """An option's meaning and default, in words."""
    words, default = OPTIONS[name].metadata['help'], OPTIONS[name].default
    if default in (MISSING, None, '', (), False):
        return words
    shown = ' '.join(map(str, default)) if isinstance(default, tuple) else default
    return f'{words} (default: {shown})'


def as_words(given: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; what is not set is left out.

    Args:
        given: name to value, as a user gives them. Labels in a list become :data:`LABELS_FILE`,
            which has to be made.
    """
    words: list[str] = []
    for name, value in given.items():
        if value is None or value is False or value in ((), []):
            continue
        words.append(flag(name))
        spell = OPTIONS[name].metadata['spell']
        if name == 'classes' and not isinstance(value, (str, os.PathLike)):
            words.append(LABELS_FILE)
        elif isinstance(value, (list, tuple)):
            words += map(spell, value)
        elif value is not True:
            words.append(spell(value))
    return words
