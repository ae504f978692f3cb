"""Names of modules and types, made from any text."""
from __future__ import annotations

import re
import unicodedata
from typing import Optional

from ...errors import ExportError

_SUFFIX = 'Model'
_MAX_LENGTH = 60
#: Modules that the package imports or apps commonly do, words of the
#: language, and types: a module of the same name hides or breaks them.
_WORDS = (
    'Accelerate AppKit AVFoundation Combine CoreFoundation '
    'CoreGraphics CoreImage CoreML CoreMedia CoreVideo Darwin Dispatch '
    'Foundation ImageIO Metal ObjectiveC Observation PackageDescription '
    'QuartzCore Swift SwiftUI System Testing UIKit Vision XCTest '
    'Any Protocol Self Type '
    'Array Bool Bundle Character Codable Data Date Dictionary Double '
    'Error Float Int Never Optional Range Result Sendable Sequence Set '
    'String Task URL UUID Void '
    'Classification ColorLayout ComputeUnits ModelInfo ModelStore '
    'OpenCVFilter PillowFilter PixelBufferPool PixelImage Prediction '
    'PredictorError PreprocessingStep Resampling ResizedEdge Samples '
    'Stopwatch Taps')
_TAKEN = frozenset(_WORDS.casefold().split())


def module_name(given: Optional[str], folder: str) -> str:
    """The name of the library: as given, or made from the folder's.

    Args:
        given: letters and digits, a capital first; None for no wish.
        folder: any text.

    Raises:
        ExportError: ``given`` cannot be the name of a module.
    """
    if given is None:
        return derived_name(folder)
    if not isinstance(given, str) or derived_name(given) != given:
        wish = derived_name(given) if isinstance(given, str) else _SUFFIX
        raise ExportError(
            f'name is {given!r}; allowed: ASCII letters and digits, a capital '
            f'first, at most {_MAX_LENGTH}, no module or type of Swift, such '
            f'as {wish!r}')
    return given


def derived_name(text: str) -> str:
    """A name in UpperCamelCase; 'Model' is appended where it is taken.

    >>> derived_name('mobileone-s0_digits')
    'MobileoneS0Digits'
    """
    plain = unicodedata.normalize('NFKD', text).encode('ascii', 'ignore')
    words = re.findall('[A-Za-z0-9]+', plain.decode())
    name = ''.join(word[0].upper() + word[1:] for word in words)
    name = name[:_MAX_LENGTH]
    if not name or name[0].isdigit():
        name = (_SUFFIX + name)[:_MAX_LENGTH]
    if name.casefold() in _TAKEN:
        name += _SUFFIX
    return name
