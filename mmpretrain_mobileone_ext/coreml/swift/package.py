"""Write a Swift package around an exported classifier."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from ...errors import ExportError
from ...utils.files import check_apart, install, workspace
from ...utils.text import one_line
from .bench import SCHEMA
from .facts import ModelFacts, read_facts
from .golden import Golden, Picture, choose_images, write_golden
from .render import MARK, MODEL_FOLDER, render_package

_SUFFIX = 'Model'
_MAX_LENGTH = 60
#: Modules that the package imports or apps commonly do, words of the language, and types: a module
#: of the same name hides or breaks them.
_WORDS = (
    'Accelerate AppKit AVFoundation Combine CoreAI CoreFoundation CoreGraphics CoreImage CoreML '
    'CoreMedia PhotosUI CoreVideo Darwin Dispatch Foundation ImageIO Metal ObjectiveC Observation '
    'PackageDescription QuartzCore Swift SwiftUI System Testing UIKit Vision XCTest Any Protocol '
    'Self Type Array Bool Bundle Camera CameraError Character ClassifierModel Codable ColorMatrix '
    'ContentView Data Date Dictionary Double Error Float Int Never Optional Range Result Sendable '
    'Sequence Set String Task URL UUID Void Classification ColorLayout ComputeUnits InputImage '
    'ModelInfo ModelStore OpenCVFilter PillowFilter PixelBufferPool PixelImage Prediction '
    'PredictorError PreprocessingStep Resampling ResizedEdge Samples Stopwatch Taps CoreAIRuntime '
    'CoreMLRuntime ModelFiles ModelLoader ModelRuntime ReadyPixels Waiting'
)
_TAKEN = frozenset(_WORDS.casefold().split())


def write_swift_package(
    model: Union[str, os.PathLike[str]],
    out: Union[str, os.PathLike[str]],
    *,
    images: Optional[Sequence[Picture]] = None,
    force: bool = False,
    name: Optional[str] = None,
) -> Path:
    """Write a Swift package that predicts, tests and measures a model.

    Every name in it (features, labels, sizes, files) comes from the model's file; the golden values
    of its tests come from what executes the file here: the reference runtime, or Apple's
    interpreter.

    Args:
        model: finished ``.mlpackage`` or ``.mlmodel`` with one image input, a label and
            probabilities as outputs; or an ``.aimodel`` with one tensor of pixels and
            probabilities.
        out: folder of the package; its parent exists.
        images: for the golden values: PIL images, or uint8 arrays (H, W, 3) in RGB order or (H, W).
            One of the model's size is given to the model as it is; one of another size passes the
            test pipeline. Seeded blocks of color when None.
        force: replace an ``out`` that was generated before.
        name: of the library, e.g. 'Digits'; made from the folder's when None.

    Returns:
        ``out``.

    Raises:
        ExportError: the model is no classifier of images, an image or a name does not fit, or the
            folder may not be written; nothing is then changed.
        ProgramError: the model cannot be read or executed.
    """
    target = Path(out).expanduser()
    check_target(target, force)
    check_apart({'out': target}, {'model': model}, ExportError)
    library = module_name(name, target.resolve().name)
    facts = read_facts(model)
    golden = choose_images(facts, images)
    with workspace(target, ExportError) as folder:
        made = folder / target.name
        made.mkdir()
        try:
            _fill(made, facts, library, golden)
        except (OSError, ValueError) as error:
            raise ExportError(f'{target}: cannot write the package: {one_line(error)}') from error
        install(made, target, force, check_target)
    return target


def _fill(folder: Path, facts: ModelFacts, library: str, golden: Golden) -> None:
    render_package(facts, library, folder)
    shutil.copy(SCHEMA, folder / SCHEMA.name)
    resources = folder / 'Sources' / library / MODEL_FOLDER
    resources.mkdir()
    if facts.path.is_dir():
        shutil.copytree(facts.path, resources / facts.path.name)
    else:
        shutil.copy(facts.path, resources / facts.path.name)
    values = folder / 'Tests' / f'{library}Tests' / 'Golden'
    values.mkdir()
    write_golden(values, facts, golden)


def check_target(target: Path, force: bool) -> None:
    """Refuse a target that may not be written.

    With ``force`` a package that was generated before is replaced, whatever has been added to it;
    anything else never is. An empty folder counts as free.

    Raises:
        ExportError: states what is there.
    """
    if not target.parent.is_dir():
        raise ExportError(f'{target}: the folder {target.parent} does not exist; make it first')
    if not os.path.lexists(target) or _is_empty(target):
        return
    if not force:
        raise ExportError(f'{target} exists; give --force (in Python force=True) to replace it')
    if not _is_ours(target):
        raise ExportError(
            f'{target} exists and is no generated Swift '
            'package; it is not replaced even with --force'
        )


def _is_empty(target: Path) -> bool:
    return target.is_dir() and not target.is_symlink() and not any(target.iterdir())


def _is_ours(target: Path) -> bool:
    manifest = target / 'Package.swift'
    return (
        not target.is_symlink()
        and manifest.is_file()
        and MARK in manifest.read_text(encoding='utf-8', errors='replace')
    )


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
    wish = derived_name(given) if isinstance(given, str) else _SUFFIX
    if wish != given:
        raise ExportError(
            f'name is {given!r}; allowed: ASCII letters and digits, a capital first, at most '
            f'{_MAX_LENGTH}, no module or type of Swift, such as {wish!r}'
        )
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
