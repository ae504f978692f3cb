"""What is printed in README.md and on the pages of docs/, and the modules that write it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
README = ROOT / 'README.md'
_FENCE = re.compile(r'^(`{3,})([\w-]*)\n(.*?)^\1$', re.MULTILINE | re.DOTALL)


def module(path: Path) -> ModuleType:
    """A file of docs/, imported once."""
    name = f'docs_{path.stem}'
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def extension(name: str) -> ModuleType:
    """An extension of Sphinx that lies in ``docs/_ext``."""
    return module(DOCS / '_ext' / f'{name}.py')


def pages() -> list[Path]:
    """README.md and all pages."""
    return [README, *sorted(p for p in DOCS.rglob('*.md') if '_build' not in p.parts)]


def snippets(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    found = _FENCE.findall(page.read_text('utf-8'))
    return [text for _, kind, text in found if kind == language]


def commands(page: Path) -> list[str]:
    """Shell commands, as printed but for joined lines; comments are left out."""
    lines = [
        line for text in snippets(page, 'sh') for line in text.replace('\\\n', ' ').splitlines()
    ]
    return [line for line in lines if line.strip() and not line.startswith('#')]
