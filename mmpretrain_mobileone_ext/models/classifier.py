"""An image classifier that folds itself and refuses unloaded weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Optional

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS

from ..errors import CheckpointError
from ..utils.checks import integer
from .deploy import switch_to_deploy
from .loading.program import ReplacedPart, refuse, take_program
from .loading.weights import check_incoming

#: What a Core ML file takes the place of.
_PARTS = ('backbone', 'neck', 'head')
#: What mmpretrain's ``inference_model`` chooses an inferencer by.
_CLASSIFICATION = SimpleNamespace(results=[SimpleNamespace(task='Image Classification')])


def _of_a_network(name: str) -> Callable[..., Any]:
    """The parent's method, which refuses a Core ML file by name."""
    parent = getattr(ImageClassifier, name)

    @functools.wraps(parent)
    def method(self, *args: Any, **kwargs: Any) -> Any:
        self._require_network(f'{name}()')
        return parent(self, *args, **kwargs)

    return method


@MODELS.register_module()
class DeployableClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with a verified way to deployment.

    Differences to the parent:

    - :meth:`switch_to_deploy` folds all re-parameterizable blocks.
    - A checkpoint must fit: missing, extra or reshaped keys raise. A head
      for other classes may be replaced, but has to be trained before it
      predicts.
    - ``inference_model`` works for a model that ``get_model`` built from a
      config file, not only for one of mmpretrain's model hub.
    - A ``.mlpackage`` or ``.mlmodel`` given as the checkpoint is executed
      in place of the network (see ``CoreMLClassifier``), so the unmodified
      ``tools/test.py CONFIG model.mlpackage`` scores the artifact. There is
      no network then: what needs one is refused by name, until a checkpoint
      is loaded again.

    Arguments are those of ``mmpretrain.models.ImageClassifier``, and ``sample``, of
    ``CoreMLClassifier``: how many images of a file's test set are executed.
    """

    #: What torch asks a module in its constructor needs no file.
    _artifact: tuple = ()

    def __init__(self, *args: Any, sample: int = 1, **kwargs: Any):
        integer('DeployableClassifier: sample', sample, 1)
        super().__init__(*args, **kwargs)
        self._sample = sample
        self._network: tuple = ()
        self._untrained: list[str] = []
        self._hub_entry: Optional[Any] = None
        self._data_meta: dict = {}
        self._register_load_state_dict_pre_hook(self._check_on_load)

    @property
    def _metainfo(self) -> Any:
        """Set by ``get_model``, to None when it is given a config file."""
        return self._hub_entry or _CLASSIFICATION

    @_metainfo.setter
    def _metainfo(self, value: Any) -> None:
        self._hub_entry = value

    @property
    def _dataset_meta(self) -> dict:
        """Set by ``get_model``; a Core ML program knows its own labels."""
        if not self._artifact:
            return self._data_meta
        return dict(classes=self._artifact[0].program.classes)

    @_dataset_meta.setter
    def _dataset_meta(self, value: dict) -> None:
        self._data_meta = value

    @property
    def artifact(self) -> Optional[Any]:
        """The ``CoreMLClassifier`` that predicts for this model, if any."""
        return self._artifact[0] if self._artifact else None

    def switch_to_deploy(self) -> DeployableClassifier:
        """Fold all blocks in place; returns self; idempotent.

        Raises:
            FoldError: a block has no exact fold; nothing is changed then.
            CheckpointError: a Core ML file is loaded in its place.
        """
        self._require_network('switch_to_deploy()')
        return switch_to_deploy(self)

    def forward(self, inputs, data_samples=None, mode: str = 'tensor'):
        """As the parent's; see there for ``mode``.

        Raises:
            CheckpointError: a Core ML program is loaded (it can only ``test_step``), or the head
                was never loaded nor trained.
        """
        self._require_network(f'forward(mode={mode!r})')
        if mode == 'loss' and self.training:
            self._untrained = []
        return super().forward(inputs, data_samples, mode)

    def predict(self, inputs, data_samples=None, **kwargs):
        """As the parent's, of a network: inputs are normalized.

        Raises:
            CheckpointError: a Core ML file is loaded in its place, which takes pixels, or the head
                was never loaded nor trained.
        """
        self._require_network('predict()')
        self.require_trained_head()
        return super().predict(inputs, data_samples, **kwargs)

    def train(self, mode: bool = True):
        """As torch's, of a network; ``train(False)`` is for both.

        Raises:
            CheckpointError: a Core ML file is loaded in its place.
        """
        if mode:
            self._require_network('train()')
        return super().train(mode)

    extract_feat = _of_a_network('extract_feat')
    loss = _of_a_network('loss')
    state_dict = _of_a_network('state_dict')
    get_layer_depth = _of_a_network('get_layer_depth')

    def _require_network(self, asked: str) -> None:
        if self._artifact:
            refuse(self._artifact[0].path, asked)

    def require_trained_head(self) -> None:
        """Refuse to go on with a head that a checkpoint did not fill.

        Raises:
            CheckpointError: the head was replaced and not trained since.
        """
        if self._untrained:
            raise CheckpointError(
                f'the checkpoint has no fitting weights for {", ".join(self._untrained)}: a '
                'replaced head must be trained before it predicts; check num_classes'
            )

    def val_step(self, data):
        """Predict, by the Core ML program where one is loaded."""
        if self._artifact:
            return self.artifact.val_step(data)
        return super().val_step(data)

    def test_step(self, data):
        """Predict, by the Core ML program where one is loaded."""
        if self._artifact:
            return self.artifact.test_step(data)
        return super().test_step(data)

    def _check_on_load(self, state_dict, prefix, local_metadata, *_) -> None:
        path = take_program(state_dict, prefix, local_metadata)
        if path is None:
            self._take_weights(state_dict, prefix)
            return
        # A tuple keeps it out of the module tree: it has no parameters to average, move or save.
        self._artifact = (
            MODELS.build(
                dict(
                    type='CoreMLClassifier',
                    path=path,
                    sample=self._sample,
                    data_preprocessor=self.data_preprocessor,
                )
            ),
        )
        self._replace_network(path)

    def _take_weights(self, state_dict, prefix) -> None:
        artifact = self._artifact
        self._restore_network()
        try:
            self._untrained = check_incoming(self, state_dict, prefix, ('head.',))
        except CheckpointError:
            if artifact:
                self._artifact = artifact
                self._replace_network(artifact[0].path)
            raise

    def _replace_network(self, path: str) -> None:
        """Put the network aside: its weights say nothing about the file."""
        parts = {name: getattr(self, name) for name in _PARTS}
        self._network = self._network or (parts,)
        for name, part in parts.items():
            if part is not None:
                setattr(self, name, ReplacedPart(path, name))

    def _restore_network(self) -> None:
        for name, part in (self._network or ({},))[0].items():
            setattr(self, name, part)
            if part is not None:  # what the model was told meanwhile
                part.to(self.data_preprocessor.device).train(self.training)
        self._network, self._artifact = (), ()
