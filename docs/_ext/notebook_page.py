"""A notebook as a page: its cells and stored outputs, parsed as MyST."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

_IMAGES = '_build/notebook'
_SHELL = '%%sh\n'
#: Colours and cursor moves of a terminal.
_ESCAPES = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')


def page(notebook: Mapping[str, Any], here: Path) -> str:
    """A notebook in Markdown.

    Args:
        notebook: as nbformat 4 stores it.
        here: folder of the page; pictures are put below it.
    """
    return '\n\n'.join(part for cell in notebook['cells'] for part in _cell(cell, here)) + '\n'


def _cell(cell: Mapping[str, Any], here: Path) -> Iterator[str]:
    text = ''.join(cell['source'])
    if cell['cell_type'] != 'code':
        yield text
        return
    shell = text.startswith(_SHELL)
    yield _fence(text[len(_SHELL) :] if shell else text, 'sh' if shell else 'python')
    for output in cell['outputs']:
        yield from _output(output, here)


def _output(output: Mapping[str, Any], here: Path) -> Iterator[str]:
    data = output.get('data', {})
    if 'image/png' in data:
        yield f'![output](/{_stored(b64decode("".join(data["image/png"])), here)})'
        return
    text = _ESCAPES.sub('', ''.join(output.get('text') or data.get('text/plain', '')))
    if text.strip():
        yield _fence(text.rstrip(), 'text')


def _stored(png: bytes, here: Path) -> str:
    target = here / _IMAGES / f'{sha256(png).hexdigest()[:16]}.png'
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png)
    return target.relative_to(here).as_posix()


def _fence(text: str, language: str) -> str:
    ticks = '`' * max(3, 1 + max((len(m) for m in re.findall(r'`+', text)), default=0))
    return f'{ticks}{language}\n{text}\n{ticks}'


class NotebookParser(MystParser):
    """Parses the Markdown of :func:`page`."""

    supported = ('notebook',)

    def parse(self, inputstring: str, document: Any) -> None:
        here = Path(document.settings.env.srcdir)
        super().parse(page(json.loads(inputstring), here), document)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the parser."""
    app.add_source_parser(NotebookParser)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
