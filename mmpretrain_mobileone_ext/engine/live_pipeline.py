"""Change a built training pipeline while it is in use."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mmcv.transforms import CenterCrop, Resize
from mmpretrain.datasets.transforms import (
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    ResizeEdge,
)

from ..errors import SpecError

#: Transforms that set the size of an image, and the attribute that holds it.
_SIZES = ((RandomResizedCrop, 'scale'), (RandomCrop, 'crop_size'),
          (CenterCrop, 'crop_size'), (Resize, 'scale'),
          (ResizeEdge, 'scale'))


class LivePipeline:
    """The transforms of a data set that can be changed, as built.

    Worker processes hold copies: they see a change once they start anew.

    Args:
        dataset: of mmengine, or a wrapper around some.
    """

    def __init__(self, dataset: Any):
        transforms = [t for one in _plain(dataset)
                      for t in one.pipeline.transforms]
        self._sizes = [(t, name, getattr(t, name)) for t in transforms
                       for kind, name in _SIZES if isinstance(t, kind)]
        self._augments = [(t, t.magnitude_level, t.num_policies)
                          for t in transforms if isinstance(t, RandAugment)]

    @property
    def resolution(self) -> int:
        """Longer edge, in pixels, of what the built pipeline gives.

        Raises:
            SpecError: no transform sets a size.
        """
        if not self._sizes:
            kinds = ', '.join(kind.__name__ for kind, _ in _SIZES)
            raise SpecError('the training pipeline has none of the '
                            f'transforms that set a size: {kinds}')
        size = self._sizes[-1][2]
        return size if isinstance(size, int) else max(size)

    def set_resolution(self, pixels: int) -> None:
        """Scale every size so that images come out with ``pixels``."""
        whole = self.resolution
        for transform, name, size in self._sizes:
            scaled = _scaled(size, pixels / whole)
            setattr(transform, name, scaled)

    def set_magnitude(self, share: float) -> float:
        """Set RandAugment to a share of its own magnitude; 0 is off.

        Returns:
            The magnitude level in force.

        Raises:
            SpecError: the pipeline has no RandAugment.
        """
        if not self._augments:
            raise SpecError('the training pipeline has no RandAugment whose '
                            'magnitude could change')
        for augment, level, policies in self._augments:
            augment.num_policies = policies if share else 0
            augment.magnitude_level = level * share
            for policy in augment.transforms:
                if getattr(policy, 'magnitude_range', None) is not None:
                    policy.magnitude_level = level * share
        return self._augments[0][1] * share


def _plain(dataset: Any) -> Iterator[Any]:
    """The data sets inside of wrappers."""
    if hasattr(dataset, 'pipeline'):
        yield dataset
        return
    inner: Iterable[Any] = getattr(dataset, 'datasets', ()) or [
        d for d in [getattr(dataset, 'dataset', None)] if d is not None]
    for one in inner:
        yield from _plain(one)


def _scaled(size: Any, factor: float) -> Any:
    if isinstance(size, int):
        return round(size * factor)
    return tuple(round(edge * factor) for edge in size)
