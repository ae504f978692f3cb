"""Networks that Apple's coreai-opt quantizes as they train, folded.

The library does all of it: it puts a quantizer at each weight (and, where activations are rounded,
at each input and output of an operation) of any network, in place, and makes what a converter
takes of them. Here is what it is told, and a record in a checkpoint that says so.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Optional

import torch
from torch import nn

from ..coreml.program.quiet import importing_torchao
from ..errors import CheckpointError, ExportError
from ..utils.checks import one_of
from ..utils.text import one_line
from .extra import require

#: Of weights, and of activations where both are named.
PRESETS = ('w8', 'w4', 'w8a8', 'w4a8')
#: Key of a checkpoint.
RECORD = 'folded_quantization'
#: Most images, channels and pixels that a file may ask a network to be prepared with.
_MOST = (1 << 13, 64, 1 << 20)


class Prepared(NamedTuple):
    """How a network was prepared.

    Attributes:
        preset: one of ``PRESETS``.
        shape: (N, C, H, W) of the images that it was prepared with.
    """

    preset: str
    shape: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(preset=self.preset, shape=list(self.shape))

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> Optional[Prepared]:
        """What a checkpoint says; None where it says nothing.

        Raises:
            CheckpointError: no such preset, or no shape of images.
        """
        found = checkpoint.get(RECORD)
        if found is None:
            return None
        known = found if isinstance(found, dict) else {}
        preset = known.get('preset')
        shape: Any = known.get('shape')
        if preset not in PRESETS or not _are_images(shape):
            raise CheckpointError(f'{RECORD} is {str(found)[:200]!r}; it was not written here')
        return cls(preset, tuple(shape))


def _are_images(shape: Any) -> bool:
    if not isinstance(shape, list) or [type(n) for n in shape] != [int] * 4 or min(shape) < 1:
        return False
    n, c, h, w = shape
    return all(size <= most for size, most in zip((n, c, h * w), _MOST))


def prepare(model: nn.Module, preset: str, images: torch.Tensor) -> Any:
    """Put coreai-opt's quantizers into a network, in place; its parameters stay the same objects.

    Args:
        model: takes one tensor.
        preset: one of ``PRESETS``.
        images: (N, C, H, W), as the network takes them; ranges of activations begin with theirs.

    Returns:
        The library's ``Quantizer``.

    Raises:
        ExportError: coreai-opt is missing, or cannot prepare the network.
        SpecError: no such preset.
    """
    one_of('preset', preset, PRESETS)
    library = _library()
    with _quiet():
        made = library.Quantizer(model, _config(library, preset))
        try:
            made.prepare((images,))
        # Any network runs here.
        except Exception as error:
            raise ExportError(
                f'coreai-opt cannot quantize {type(model).__name__} ({one_line(error)})'
            ) from error
    return made


def rebuild(model: nn.Module, how: Prepared) -> Any:
    """Prepare a network for the weights of one that was prepared."""
    like = next(model.parameters())
    return prepare(model, how.preset, torch.zeros((1, *how.shape[1:]), device=like.device))


def finalize(quantizer: Any, format: str) -> nn.Module:
    """What a converter takes of a network that was trained so, in place.

    Args:
        quantizer: what :func:`prepare` gave.
        format: 'mlprogram' or 'Core AI'.

    Raises:
        ExportError: files of the format cannot hold it.
    """
    backends = import_module('coreai_opt.common').ExportBackend
    known = {'mlprogram': backends.CoreML, 'Core AI': backends.CoreAI}
    if format not in known:
        raise ExportError(
            f'coreai-opt makes no {format} of a network that it quantized; write an .mlpackage '
            'or an .aimodel'
        )
    with _quiet():
        return quantizer.finalize(backend=known[format])


def _library() -> Any:
    require('to train a folded network quantized', {'coreai_opt': 'coreai-opt'}, ExportError)
    with _quiet():
        return import_module('coreai_opt.quantization')


def _config(library: Any, preset: str) -> Any:
    """Weights by the library's preset; activations by its default, of 8 bits."""
    weights, _, activations = preset.partition('a')
    config = getattr(library.QuantizerConfig.presets, weights)()
    if activations:
        state = config.global_config.op_state_spec
        config = library.QuantizerConfig(
            global_config=library.ModuleQuantizerConfig(op_state_spec=state)
        )
    return config.set_execution_mode('eager')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), importing_torchao():
        warnings.simplefilter('ignore')
        yield
