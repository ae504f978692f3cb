"""What generated packages call: the tables in ``apple/``."""

import re
from collections import namedtuple
from pathlib import Path

STUBS = Path(__file__).parent / 'apple'
Api = namedtuple('Api', 'framework declaration ios macos')
_ROW = re.compile(r'^\| `(.+?)` \| (\w+) \| `(.+)` \| ([\d.]*) \| ([\d.]*) \|$', re.MULTILINE)

#: Name to :class:`Api`; versions are empty where iOS 15 and macOS 12 have it.
APPLE = {name: Api(*rest) for name, *rest in _ROW.findall((STUBS / 'api.md').read_text())}
PORTABLE = frozenset((STUBS / 'portable.txt').read_text().split())

_CORE_AI = (STUBS / 'coreai.md').read_text()
#: The same of packages around an ``.aimodel``.
CORE_AI = {name: Api(*rest) for name, *rest in _ROW.findall(_CORE_AI)}
CORE_AI_PORTABLE = frozenset(_CORE_AI.rpartition('portable:')[2].split())
