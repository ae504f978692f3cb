"""From a folder of images to a scored Core ML package."""

from .folder import ImageFolder, read_folder
from .settings import finetune_config

__all__ = ['ImageFolder', 'finetune_config', 'read_folder']
