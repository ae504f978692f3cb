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
        self._parts = [_Part(one) for one in _plain(dataset)]

    def set_resolution(self, pixels: int) -> None:
        """Scale every size so that images come out with ``pixels``.

        Raises:
            SpecError: a pipeline has no transform that sets a size.
        """
        for part in self._parts:
            part.set_resolution(pixels)

    def set_magnitude(self, share: float) -> float:
        """Set RandAugment to a share of its own magnitude; 0 is off.

        Returns:
            The magnitude level in force.

        Raises:
            SpecError: a pipeline has no RandAugment, unless ``share`` is 0,
                or the level would be above its ``total_level``.
        """
        return max((part.set_magnitude(share) for part in self._parts),
                   default=0.0)

    def restore(self) -> None:
        """Put everything back as it was built."""
        for part in self._parts:
            part.restore()


class _Part:
    """The changeable transforms of one plain data set."""

    def __init__(self, dataset: Any):
        transforms = dataset.pipeline.transforms
        self._sizes = [(t, name, getattr(t, name)) for t in transforms
                       for kind, name in _SIZES
                       if isinstance(t, kind) and getattr(t, name)]
        self._augments = [(t, t.magnitude_level, t.num_policies)
                          for t in transforms if isinstance(t, RandAugment)]

    def set_resolution(self, pixels: int) -> None:
        if not self._sizes:
            kinds = ', '.join(kind.__name__ for kind, _ in _SIZES)
            raise SpecError('the training pipeline has none of the '
                            f'transforms that set a size: {kinds}')
        # The last one decides what comes out.
        last = self._sizes[-1][2]
        whole = last if isinstance(last, int) else max(last)
        for transform, name, size in self._sizes:
            setattr(transform, name, _scaled(size, pixels / whole))

    def set_magnitude(self, share: float) -> float:
        if share and not self._augments:
            raise SpecError('the training pipeline has no RandAugment whose '
                            'magnitude could change')
        for augment, level, policies in self._augments:
            if level * share > augment.total_level:
                raise SpecError(
                    f'magnitude {level * share:g} (strength times share times '
                    f"RandAugment's {level:g}) is above its total_level="
                    f'{augment.total_level}')
            _set_level(augment, level * share, policies if share else 0)
        return max((level * share for _, level, _ in self._augments),
                   default=0.0)

    def restore(self) -> None:
        for transform, name, size in self._sizes:
            setattr(transform, name, size)
        for augment, level, policies in self._augments:
            _set_level(augment, level, policies)


def _set_level(augment: RandAugment, level: float, policies: int) -> None:
    augment.num_policies = policies
    augment.magnitude_level = level
    for policy in augment.transforms:
        if getattr(policy, 'magnitude_range', None) is not None:
            policy.magnitude_level = level


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
