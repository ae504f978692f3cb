"""What a user may ask of a deployment, checked before anything is done."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from ..coreml.export_options import check_free
from ..errors import ExportError
from .deploy_config import DeployConfig

_MAX_SIDE = 8192


@dataclass(frozen=True)
class DeployOptions:
    """A checked request.

    Attributes:
        out: target; its suffix is the deploy config's.
        image_size: (H, W) in pixels in place of the deploy config's; given
            as one number for a square or as two.
        verify_data: 'test' (whole test split), a number of its images, or
            'none' (no data set is read; seeded noise is compared).
        force: replace an existing target.

    Raises:
        ExportError: states the value and what is allowed.
    """
    out: Path
    image_size: Any = None
    verify_data: Union[int, str] = 100
    force: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, 'out', Path(self.out).expanduser())
        set_(self, 'image_size', _checked_size(self.image_size))
        set_(self, 'verify_data', _checked_count(self.verify_data))

    def check_target(self, deploy: DeployConfig) -> None:
        """Refuse a target of another suffix, or one that is taken.

        Raises:
            ExportError: states the suffix that fits.
        """
        if self.out.suffix != deploy.suffix:
            raise ExportError(
                f'{self.out}: {deploy.name} ({deploy.backend}) needs the '
                f'suffix {deploy.suffix!r}, not {self.out.suffix!r}')
        if not self.out.parent.is_dir():
            raise ExportError(f'{self.out}: the folder {self.out.parent} '
                              'does not exist; make it first')
        check_free(self.out, self.force)


def _checked_size(size: Any) -> Optional[tuple[int, int]]:
    if size is None:
        return None
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    fits = len(sides) in (1, 2) and all(
        isinstance(s, int) and 1 <= s <= _MAX_SIDE for s in sides)
    if not fits:
        raise ExportError(f'image_size is {size!r}; allowed: H or H W in '
                          f'whole pixels, 1 to {_MAX_SIDE}')
    return sides[0], sides[-1]


def _checked_count(value: Union[int, str]) -> Union[int, str]:
    if value in ('test', 'none'):
        return value
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ExportError(f"verify_data is {value!r}; allowed: 'test', "
                          "'none' or a number of images, at least 1")
    return number
