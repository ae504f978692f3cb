"""Sphinx configuration: ``make docs`` builds these pages with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / '_ext'), str(HERE.parent)]

from mmpretrain_mobileone_ext.utils.version import __version__  # noqa: E402

project = 'mmpretrain_mobileone_ext'
author = copyright = 'mmpretrain_mobileone_ext contributors'
version = release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'notebook_page',
]
exclude_patterns = ['_build']
source_suffix = {'.md': 'markdown', '.ipynb': 'notebook'}
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 3

smartquotes = False  # options begin with two hyphens

html_theme = 'furo'
html_title = 'MobileOne for MMPretrain'
html_show_sphinx = False
html_theme_options = {'navigation_with_keys': True}

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
autodoc_default_options = {'exclude-members': 'training'}
copybutton_exclude = '.linenos, .gp, .go'
