"""Apple's second format, ``.aimodel``: made by its converter, executed by its interpreter.

Both come with an extra (``mmpretrain-mobileone-ext[coreai]``); importing this package asks for
neither.
"""

from .format import CoreAI

__all__ = ['CoreAI']
