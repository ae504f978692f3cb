"""Metadata by which Xcode offers a preview of a model.

Source: coremltools' guide "Xcode Model Preview Types". An image classifier
has an image input and outputs a dictionary and a string; its preview needs
no parameters. For feature extractors no preview exists.
"""
from __future__ import annotations

from .graph import Program

PREVIEW_TYPE = 'com.apple.coreml.model.preview.type'
_IMAGE_CLASSIFIER = 'imageClassifier'
_LABELS = ('string', 'int64')


def preview_metadata(program: Program) -> dict[str, str]:
    """User-defined metadata for the Preview tab; none where it has no use.

    Args:
        program: as read from disk.
    """
    kinds = {feature.name: feature.kind for feature in program.outputs}
    is_classifier = (
        [feature.kind for feature in program.inputs] == ['image']
        and kinds.get(program.predicted_feature_name) in _LABELS
        and kinds.get(program.predicted_probabilities_name) == 'dictionary'
        and bool(program.classes))
    return {PREVIEW_TYPE: _IMAGE_CLASSIFIER} if is_classifier else {}
