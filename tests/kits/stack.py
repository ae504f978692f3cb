"""Whose packages the tests run on."""

from importlib import metadata


def is_onedl() -> bool:
    """Whether mmengine is OneDL's, the maintained fork, not OpenMMLab's."""
    names = {d.metadata['Name'] for d in metadata.distributions() if d.metadata}
    return 'onedl-mmengine' in names
