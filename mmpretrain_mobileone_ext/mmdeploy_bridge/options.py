"""What a user may ask of a deployment, checked before anything is done."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from ..coreml.export_options import check_free, checked_size, checked_verify
from ..errors import ExportError
from ..option_checks import boolean, path
from .deploy_config import DeployConfig


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
        boolean('force', self.force, ExportError)
        out = path('out', self.out, ExportError)
        set_(self, 'out', Path(out).expanduser())
        set_(self, 'image_size', checked_size(self.image_size))
        set_(self, 'verify_data', checked_verify(self.verify_data))

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
