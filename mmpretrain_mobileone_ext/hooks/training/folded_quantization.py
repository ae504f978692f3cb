"""Train a folded network quantized, by Apple's coreai-opt."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Optional

from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...checkpoints.deploy_file import unwrap
from ...coreai.folded import PRESETS, RECORD, Prepared, prepare, rebuild
from ...errors import CheckpointError, SpecError
from ...models.deploy import form_of
from ...models.quantization import quantizers
from ...utils.checks import integer, one_of
from ..run import leaves_preview

_OWN = 'FoldedQuantizationHook'


@HOOKS.register_module()
class FoldedQuantizationHook(Hook):
    """Quantization-aware training of any network without branches, by coreai-opt.

    From epoch ``start`` on, the library's quantizers round weights, and activations where they are
    asked for, while the network trains: a MobileOne or RepVGG in folded form, a ResNet, or any
    other. Where a network has branches, ``QuantizationHook`` trains with them.

    Checkpoints say how the network was prepared: a run is resumed from them, and
    ``mobileone-ext export`` and ``CoreMLExportHook`` write their integers into an ``.mlpackage``
    or an ``.aimodel``. Other tools need the exported file.

    Args:
        preset: 'w8', 'w4', 'w8a8' or 'w4a8': bits of weights, and of activations.
        start: first epoch, from 0.

    Raises:
        SpecError: other arguments, or a run that it is not for.
        ExportError: coreai-opt is not installed, or cannot prepare the network.
    """

    def __init__(self, preset: str = 'w8', start: int = 0):
        self.preset = one_of(f'{_OWN}: preset', preset, PRESETS)
        self.start = integer(f'{_OWN}: start', start, 0)
        self._how: Optional[Prepared] = None
        self._quantizer: Any = None
        self._mode = ExitStack()
        self._trains = False

    def before_run(self, runner) -> None:
        """Refuse a run that it is not for."""
        if leaves_preview(self, runner):
            return
        model = unwrap(runner.model)
        if form_of(model) == 'branches':
            raise SpecError(
                f'{_OWN}: the network has branches; QuantizationHook trains with them, and this '
                'one a folded network (model.backbone.deploy=True, and its deploy checkpoint)'
            )
        if any(quantizers(model)):
            raise SpecError(f'{_OWN}: the network has quantizers of its own; leave one hook out')

    def before_train(self, runner) -> None:
        """Refuse a run in which the library cannot follow."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise SpecError(
                f'{_OWN}: EMAHook averages a network that is not quantized; leave it out'
            )
        if get_world_size() > 1:
            raise SpecError(f'{_OWN}: coreai-opt follows ranges in one process; train in one')
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise SpecError(f'{_OWN}: start counts epochs; give train_cfg by_epoch=True')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Prepare the network for the weights of one that was prepared."""
        how = Prepared.of(checkpoint)
        if how is None or self._how is not None:
            return
        if how.preset != self.preset:
            raise CheckpointError(
                f'{_OWN}: the checkpoint was trained with preset {how.preset!r}, and '
                f'{self.preset!r} is asked for'
            )
        self._quantizer, self._how = rebuild(unwrap(runner.model), how), how

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Prepare the network by a first batch; let it train quantized."""
        if self._trains or runner.epoch < self.start:
            return
        if self._how is None:
            model: Any = unwrap(runner.model)
            images = model.data_preprocessor(data_batch, False)['inputs']
            self._quantizer = prepare(model, self.preset, images)
            self._how = Prepared(self.preset, tuple(images.shape))
        self._mode.enter_context(self._quantizer.training_mode())
        self._trains = True

    def after_train_epoch(self, runner) -> None:
        """Let ranges be as they are while the network is scored and saved."""
        self._mode.close()
        self._trains = False

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Say how the network was prepared."""
        if self._how is not None:
            checkpoint[RECORD] = self._how.record()
