"""A Core ML file as a test-time model of mmpretrain."""

from __future__ import annotations

import copy
from typing import Any, NoReturn, Optional, Union

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import CheckpointError, ProgramError
from ..models.loading.program import refuse, take_program
from ..utils import checks
from .formats import format_of
from .program.graph import takes_normalized
from .runtime.arithmetic import ARITHMETICS
from .runtime.engine.chips import CHIP_NAMES, DEFAULT_CHIP
from .targets import COMPUTE_UNITS


@MODELS.register_module()
class CoreMLClassifier(BaseModel):
    """Predict with a saved Core ML classifier instead of a network.

    ``DeployableClassifier`` turns into one when ``tools/test.py`` is given a ``.mlpackage`` or
    ``.mlmodel`` as the checkpoint. For the config of any other classifier add ``--cfg-options
    model.type=CoreMLClassifier``; its ``backbone``, ``neck`` and ``head`` are then ignored.

    Our files normalize images themselves, so only the channel order of ``data_preprocessor`` is
    applied: the program receives the pixels (N, C, H, W), 0 to 255, that a phone would give it. A
    file that leaves mean and std to the app, as mmdeploy's do, receives normalized pixels.

    Args:
        path: the file; None when it arrives as the checkpoint.
        normalize: apply mean and std; None: where the file says that it takes a normalized tensor.
        arithmetic: 'fp16' rounds every value to the precision the program states, 'fp32' computes
            in float32 with the weights as stored, 'ane' as the Neural Engine (not of
            an .aimodel; see ``coreml.load_program``).
        chip: of 'ane': the generation, e.g. 'A14' or 'M2'.
        backend: 'reference' runs anywhere; 'coreml' is Apple's runtime, on macOS (written against
            its documentation, not run in this project's tests).
        compute_units: of 'coreml': 'ALL', 'CPU_ONLY', 'CPU_AND_GPU' or 'CPU_AND_NE'.
        sample: in mode 'predict' every ``sample``-th image is executed, counted from the first one,
            and the others get no prediction: for interpreters that take seconds an image.
        data_preprocessor: config or module of the network it was made from.

    Raises:
        ProgramError: the file is unreadable, or images do not fit it.
    """

    def __init__(
        self,
        path: Optional[str] = None,
        normalize: Optional[bool] = None,
        arithmetic: str = 'fp16',
        backend: str = 'reference',
        compute_units: str = 'ALL',
        chip: str = DEFAULT_CHIP,
        sample: int = 1,
        data_preprocessor: Union[dict, nn.Module, None] = None,
        **network: Any,
    ):
        super().__init__(_pixels_only(data_preprocessor))
        unknown = sorted(
            set(network) - {'backbone', 'neck', 'head', 'pretrained', 'train_cfg', 'init_cfg'}
        )
        if unknown:
            raise ProgramError(f'CoreMLClassifier: unexpected arguments {unknown}')
        owner = 'CoreMLClassifier:'
        if path is not None:
            checks.path(f'{owner} path', path, ProgramError)
        if normalize is not None:
            checks.boolean(f'{owner} normalize', normalize, ProgramError)
        for name, value, allowed in (
            ('arithmetic', arithmetic, ARITHMETICS),
            ('chip', chip, CHIP_NAMES),
            ('backend', backend, ('reference', 'coreml')),
            ('compute_units', compute_units, COMPUTE_UNITS),
        ):
            checks.one_of(f'{owner} {name}', value, allowed, ProgramError)
        self.path = path
        self._sample = checks.integer(f'{owner} sample', sample, 1, ProgramError)
        self._seen = self._executed = 0
        self._normalize = normalize
        self._options: dict[str, Any] = dict(
            arithmetic=arithmetic, backend=backend, compute_units=compute_units, chip=chip
        )
        self._loaded: tuple = ()
        self._register_load_state_dict_pre_hook(self._take_path)

    @property
    def artifact(self) -> CoreMLClassifier:
        """Itself; the counterpart of ``DeployableClassifier.artifact``."""
        return self

    @property
    def program(self) -> Any:
        """The ``LoadedProgram``; read from disk on first use."""
        if not self._loaded:
            if self.path is None:
                raise ProgramError(
                    'CoreMLClassifier: no .mlpackage or .mlmodel was given as the checkpoint'
                )
            self._loaded = (format_of(self.path).load(self.path, **self._options),)
        return self._loaded[0]

    @property
    def sampled(self) -> str:
        """'27 of 540 images': of what is executed with ``sample``; '' where all of them are."""
        return f'{self._executed} of {self._seen} images' if self._sample > 1 else ''

    def forward(
        self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor'
    ) -> Any:
        """Run the program on pixels (N, C, H, W), 0 to 255.

        Args:
            inputs: in the program's channel order and of a size it takes.
            data_samples: filled with predictions in mode 'predict'.
            mode: 'tensor' returns probabilities (N, classes), 'predict' a list of ``DataSample``.

        Raises:
            ProgramError: wrong size or channels, or ``mode='loss'``.
        """
        if mode not in ('tensor', 'predict'):
            raise ProgramError(f'a Core ML program cannot run mode={mode!r}; it only predicts')
        if mode == 'predict' and self._sample > 1:
            inputs, data_samples = self._chosen(inputs, data_samples)
            if not len(inputs):
                return []
        program = self.program
        images = self._as_taken(inputs.cpu(), program.program)
        outputs = program.predict_batch({program.input_name: images})
        scores = _scores(outputs, program.program)
        if mode == 'tensor':
            return scores
        samples = data_samples or [DataSample() for _ in scores]
        for sample, score in zip(samples, scores):
            sample.set_pred_score(score).set_pred_label(score.argmax())
        return samples

    def predict(self, inputs: Tensor, data_samples: Optional[list] = None) -> list:
        """As ``forward`` in mode 'predict'."""
        return self(inputs, data_samples, mode='predict')

    def extract_feat(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a Core ML classifier gives away no features.

        Raises:
            CheckpointError: always; so do the others below.
        """
        refuse(self.path, 'extract_feat()')

    def extract_feats(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, as :meth:`extract_feat`."""
        refuse(self.path, 'extract_feats()')

    def loss(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: there is nothing to train."""
        refuse(self.path, 'loss()')

    def switch_to_deploy(self) -> NoReturn:
        """Refuse: there are no branches."""
        refuse(self.path, 'switch_to_deploy()')

    def train(self, mode: bool = True):
        """``train(False)`` as torch's; refuse to train."""
        if mode:
            refuse(self.path, 'train()')
        return super().train(mode)

    def state_dict(self, *args: Any, **kwargs: Any):
        """Refuse where there is a file: it has no weights of torch."""
        if self.path is not None:
            refuse(self.path, 'state_dict()')
        return super().state_dict(*args, **kwargs)

    def _chosen(self, inputs: Tensor, data_samples: Optional[list]) -> tuple[Tensor, Any]:
        """The images of a batch that are executed, and their samples."""
        if not self._seen:
            print_log(f'{self.path}: one image of {self._sample} is executed', 'current')
        first = -self._seen % self._sample
        self._seen += len(inputs)
        chosen = slice(first, None, self._sample)
        self._executed += len(inputs[chosen])
        return inputs[chosen], data_samples and data_samples[chosen]

    def _as_taken(self, pixels: Tensor, program: Any) -> Tensor:
        """The pixels, normalized where the file leaves that to the app."""
        normalize = self._normalize
        if normalize is None:
            normalize = takes_normalized(program)
        given = self.data_preprocessor
        if not normalize or not hasattr(given, 'mean'):
            return pixels
        return (pixels.float() - given.mean.cpu()) / given.std.cpu()

    def _take_path(self, state_dict, prefix, local_metadata, *_) -> None:
        path = take_program(state_dict, prefix, local_metadata)
        if path is None:
            raise CheckpointError(
                'CoreMLClassifier executes a .mlpackage or .mlmodel, but the '
                'checkpoint holds weights of a network'
            )
        self.path, self._loaded = path, ()


def _scores(outputs: dict, program: Any) -> Tensor:
    """Class scores (N, K): of a classifier, or the only output."""
    name = program.predicted_probabilities_name
    if name:
        return outputs[name]
    shapes = {k: tuple(v.shape) for k, v in outputs.items()}
    value = next(iter(outputs.values()))
    if len(outputs) != 1 or value.dim() < 2 or value.flatten(1).shape[1] != value.shape[1]:
        raise ProgramError(
            f'{program.path}: not a classifier; a single output of class '
            f'scores (N, classes) is needed, it has {shapes}'
        )
    return value.flatten(1)


def _pixels_only(preprocessor: Union[dict, nn.Module, None]) -> nn.Module:
    if preprocessor is not None and not isinstance(preprocessor, nn.Module):
        checks.mapping('CoreMLClassifier: data_preprocessor', preprocessor, ProgramError)
    if isinstance(preprocessor, nn.Module):
        pixels = copy.deepcopy(preprocessor)
    else:
        cfg = dict(preprocessor or {})
        cfg.setdefault('type', 'ClsDataPreprocessor')
        pixels = MODELS.build(cfg)
    pixels._enable_normalize = False  # type: ignore[assignment]
    return pixels
