"""Fill the templates of the Swift package."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ...outside_text import markdown, markdown_code, shell_word
from .facts import ModelFacts
from .golden import tolerance_of
from .literals import string_literal
from .place import MARK

_TEMPLATES = Path(__file__).with_name('templates')
#: Folder of resources beside the sources. On iOS a folder "Resources" in a
#: bundle keeps it from being signed.
MODEL_FOLDER = 'Model'
_INSTALL = "pip install 'jinja2>=3'"


def render_package(facts: ModelFacts, name: str, folder: Path) -> None:
    """Write every file of the package but the model and the golden values.

    Args:
        name: of the library.
        folder: exists and is empty.

    Raises:
        ExportError: jinja2 is missing.
    """
    environment = _environment()
    values = _values(facts, name)
    folders = {
        'library': f'Sources/{name}',
        'bench': f'Sources/{values["bench"]}',
        'tool': f'Sources/{values["tool"]}',
        'tests': f'Tests/{values["tests"]}',
    }
    for source in sorted(p for p in _TEMPLATES.rglob('*') if p.is_file()):
        inside = source.relative_to(_TEMPLATES)
        target = folder / folders.get(inside.parts[0], '.') / \
            _file_name(inside.name, values)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding='utf-8')
        if source.suffix == '.jinja':
            text = environment.from_string(text).render(values)
        target.write_text(text, encoding='utf-8')


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ExportError(f'cannot import jinja2 ({error}); the Swift '
                          f'package needs it: {_INSTALL}') from error
    # Every text passes the filter of the language that it goes into.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False)
    environment.filters.update(
        swift=string_literal, markdown=markdown, code=markdown_code,
        shell=shell_word)
    return environment


def _file_name(template: str, values: Mapping[str, Any]) -> str:
    special = {
        'Predictor.swift.jinja': f'{values["predictor"]}.swift',
        'gitignore': '.gitignore',
    }
    plain = template[:-len('.jinja')] if template.endswith('.jinja') \
        else template
    return special.get(template, plain)


def _values(facts: ModelFacts, name: str) -> dict[str, Any]:
    height, width = facts.size
    tolerance = tolerance_of(facts)
    return dict(
        mark=MARK,
        name=name,
        predictor=f'{name}Predictor',
        bench=f'{name}Bench',
        tool=f'{name.lower()}-bench',
        tests=f'{name}Tests',
        folder=MODEL_FOLDER,
        resource=facts.path.stem,
        extension=facts.path.suffix[1:],
        sha256=facts.sha256,
        format=facts.format,
        precision=facts.precision,
        ios=facts.ios,
        macos=facts.macos,
        input=facts.image.name,
        label=facts.label,
        probabilities=facts.probabilities,
        labels=facts.classes,
        width=width,
        height=height,
        layout=facts.layout,
        units=facts.units,
        words=facts.words,
        steps=facts.steps.expressions,
        missing=facts.steps.missing,
        tolerance=tolerance.name,
        max_relative=tolerance.max_relative)
