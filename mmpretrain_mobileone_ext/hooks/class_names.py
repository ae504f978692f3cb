"""Names of classes have to mean the same labels all through a run.

Importing this module gives every Runner of mmengine the hook: a split that is labelled in another
way than the checkpoint has no other symptom than wrong names, and most configs would not list a
hook against it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from mmpretrain.models.classifiers import BaseClassifier

from ..checkpoints.class_names import (
    ClassNames,
    are_other_classes,
    check_consistent,
    check_related,
    checkpoint_names,
    data_set_names,
)
from ..checkpoints.deploy_file import unwrap
from ..errors import ClassNamesError
from ..models.loading.program import CORE_ML_KEY

_SPLITS = ('train', 'val', 'test')
_HEAD = re.compile(r'(module\.)*head\.')


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Refuse a run in which a name stands for two labels.

    Compared are the ``metainfo`` of every split that the run builds, the folders it was labelled
    by, and the classes of the checkpoint or Core ML file. The same names in another order, or a
    list that lacks some of another's, are an error.

    A checkpoint of other classes is for training: its head is not loaded, even where their number
    is the same. A test of it is an error, and so is resuming its run.

    Runs without an image classifier are left alone. Every Runner has this hook; no config has to
    list it.

    Raises:
        ClassNamesError: names both lists.
    """

    # Before EMAHook loads the checkpoint, and whatever needs a right one.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded: Optional[ClassNames] = None

    def before_run(self, runner) -> None:
        """Compare the splits with each other."""
        if _classifier(runner) is None:
            return
        check_consistent(
            [names for split in _SPLITS for names in _names(runner, split)], ClassNamesError
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare a checkpoint with what is trained, or keep its names."""
        state = checkpoint.get('state_dict', checkpoint)
        found = checkpoint_names(checkpoint.get('meta'))
        self._loaded = None
        if found is None:
            return
        own = self._loaded = ClassNames(found, 'the checkpoint')
        trained = _names(runner, 'train')
        if not trained or CORE_ML_KEY in state or _classifier(runner) is None:
            return
        if not are_other_classes(found, trained[0].names):
            check_consistent([own, *trained], ClassNamesError)
        elif runner._resume:
            raise ClassNamesError(
                f'{own} and {trained[0]} are other classes: a run is '
                'resumed with its own; load_from starts a new one'
            )
        else:
            _leave_head_out(runner, checkpoint, own, trained[0])

    def before_val(self, runner) -> None:
        """Compare what was loaded with the split, unless it was trained."""
        self._compare(runner, 'val')

    def before_test(self, runner) -> None:
        """Compare what was loaded with the split, unless it was trained."""
        self._compare(runner, 'test')

    def _compare(self, runner, split: str) -> None:
        model, known = _classifier(runner), _names(runner, split)
        if model is None or not known or _names(runner, 'train'):
            return
        program = _program_names(model)
        own = program or self._loaded
        if own is None:
            _check_count(model, known)
            return
        check_consistent([own, *known], ClassNamesError)
        # A file may be exported with names of its own.
        if program is None or len(own.names) != len(known[0].names):
            check_related(own, known, ClassNamesError)


def _leave_head_out(runner, checkpoint: dict, own: ClassNames, trained: ClassNames) -> None:
    """Leave out what belongs to single classes: one row for each."""
    for part in ('state_dict', 'ema_state_dict'):
        state = checkpoint.get(part, {})
        rows = [
            key
            for key, value in state.items()
            if _HEAD.match(key) and value.shape[:1] == (len(own.names),)
        ]
        for key in rows:
            del state[key]
    if is_main_process():
        runner.logger.warning(
            f'ClassNamesHook: {own} and {trained} are other classes: the '
            'head starts with new weights'
        )


def _classifier(runner) -> Any:
    """The model, without wrappers, if it is an image classifier."""
    model = unwrap(runner.model)
    if isinstance(model, BaseTTAModel):
        model = model.module
    is_classifier = isinstance(model, BaseClassifier) or hasattr(type(model), 'artifact')
    return model if is_classifier else None


def _names(runner, split: str) -> list[ClassNames]:
    """Names in a split, where its loop is built; not of a config."""
    loop = getattr(runner, f'_{split}_loop')
    if not isinstance(loop, BaseLoop):
        return []
    return data_set_names(loop.dataloader.dataset, f'the {split} split')


def _program_names(model: Any) -> Optional[ClassNames]:
    artifact = getattr(model, 'artifact', None)
    if artifact is None or artifact.program.classes is None:
        return None
    return ClassNames(tuple(artifact.program.classes), 'the Core ML file')


def _check_count(model: Any, known: list[ClassNames]) -> None:
    """Without names, the number of folders has to be the head's."""
    count = getattr(getattr(model, 'head', None), 'num_classes', None)
    folders = [names for names in known if names.are_folders]
    if folders and isinstance(count, int) and count != len(folders[0].names):
        raise ClassNamesError(
            f'{folders[0]} are {len(folders[0].names)} classes, but the network has {count}; give '
            'each class a folder, an empty one if need be'
        )


def _with_hook(register: Callable[..., None]) -> Callable[..., None]:

    @functools.wraps(register)
    def register_hooks(self: Any, *args: Any, **kwargs: Any) -> None:
        register(self, *args, **kwargs)
        if not any(isinstance(h, ClassNamesHook) for h in self.hooks):
            self.register_hook(ClassNamesHook())

    return register_hooks


for _kind in (Runner, FlexibleRunner):
    _register = _with_hook(_kind.register_hooks)
    setattr(_kind, 'register_hooks', _register)  # noqa: B010
