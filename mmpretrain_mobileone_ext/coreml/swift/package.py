"""Write a Swift package around an exported classifier."""
from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from ...atomic_file import workspace
from ...errors import ExportError
from ...output_paths import check_apart
from ..program import read_program
from .bench import SCHEMA
from .facts import ModelFacts, read_facts
from .golden import Golden, Picture, choose_images, write_golden
from .names import module_name
from .place import check_folder, install_folder
from .render import MODEL_FOLDER, render_package


def write_swift_package(model: Union[str, os.PathLike[str]],
                        out: Union[str, os.PathLike[str]],
                        *,
                        images: Optional[Sequence[Picture]] = None,
                        force: bool = False,
                        name: Optional[str] = None) -> Path:
    """Write a Swift package that predicts, tests and measures a model.

    Every name in it (features, labels, sizes, files) comes from the model's
    file; the golden values of its tests come from the reference runtime.

    Args:
        model: finished ``.mlpackage`` or ``.mlmodel``: one image input, a
            label and probabilities as outputs.
        out: folder of the package; its parent exists.
        images: for the golden values: PIL images, or uint8 arrays (H, W, 3)
            in RGB order or (H, W). One of the model's size is given to the
            model as it is; one of another size passes the test pipeline.
            Seeded blocks of color when None.
        force: replace an ``out`` that was generated before.
        name: of the library, e.g. 'Digits'; made from the folder's when
            None.

    Returns:
        ``out``.

    Raises:
        ExportError: the model is no classifier of images, an image or a name
            does not fit, or the folder may not be written; nothing is then
            changed.
        ProgramError: the model cannot be read or executed.
    """
    target = Path(out).expanduser()
    check_folder(target, force)
    check_apart({'out': target}, {'model': model}, ExportError)
    library = module_name(name, target.resolve().name)
    facts = read_facts(read_program(model))
    golden = choose_images(facts, images)
    with workspace(target, ExportError) as folder:
        made = folder / target.name
        made.mkdir()
        try:
            _fill(made, facts, library, golden)
        except (OSError, ValueError) as error:
            reason = ' '.join(str(error).split())
            raise ExportError(
                f'{target}: cannot write the package: {reason}') from error
        install_folder(made, target, force)
    return target


def _fill(folder: Path, facts: ModelFacts, library: str,
          golden: Golden) -> None:
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
