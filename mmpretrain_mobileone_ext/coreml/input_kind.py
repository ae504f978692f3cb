"""Whether a program takes pixels, or a tensor that an app has normalized."""
from __future__ import annotations

from ..errors import ProgramError
from .graph import Program

#: Metadata entry in which a file says what its first input is.
LAYOUT = 'input_layout'
#: Its value where mean and std are left to the app.
NORMALIZED = 'normalized tensor'
_PIXELS = 'tensor'


def takes_normalized(program: Program) -> bool:
    """Whether the first input is (pixels - mean) / std, not pixels.

    An image is pixels 0 to 255. A tensor can be either; the files that this
    package makes say which.

    Raises:
        ProgramError: a tensor, and the file does not say which.
    """
    if program.inputs[0].kind == 'image':
        return False
    said = program.metadata.get(LAYOUT)
    if said not in (_PIXELS, NORMALIZED):
        raise ProgramError(
            f'{program.path} takes a tensor and does not say whether mean '
            'and std are the app\'s work; add --cfg-options '
            'model.type=CoreMLClassifier and model.normalize=True, or False '
            'for pixels 0 to 255')
    return said == NORMALIZED
