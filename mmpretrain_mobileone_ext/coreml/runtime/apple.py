"""Apple's own Core ML runtime behind the interface of the reference one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ProgramError
from ..program import quiet
from ..program.graph import Feature, Program
from .inputs import to_pil, to_tensor
from .loaded import LoadedProgram

_COMPUTE_UNITS = ('ALL', 'CPU_ONLY', 'CPU_AND_GPU', 'CPU_AND_NE')


class NativeProgram(LoadedProgram):
    """``coremltools.models.MLModel.predict``, macOS only.

    Written against the documented interface of coremltools 9 and tested against a stand-in for it;
    it has not been run on a Mac.

    Args:
        program (Program): The program, as read from disk.
        compute_units (str): ``'ALL'``, ``'CPU_ONLY'``, ``'CPU_AND_GPU'`` or ``'CPU_AND_NE'``.

    Raises:
        ProgramError: On another OS, for unknown compute units, or if Core ML cannot load the model.
    """

    arithmetic = 'Core ML'

    def __init__(self, program: Program, compute_units: str = 'ALL') -> None:
        super().__init__(program)
        if compute_units not in _COMPUTE_UNITS:
            raise ProgramError(
                f'compute_units is {compute_units!r}; allowed: {", ".join(_COMPUTE_UNITS)}'
            )
        if sys.platform != 'darwin':
            raise ProgramError(
                f"backend 'coreml' needs macOS, this is {sys.platform}; use backend 'reference'"
            )
        coremltools = quiet.coremltools()
        try:
            self._model: Any = coremltools.models.MLModel(
                str(program.path), compute_units=coremltools.ComputeUnit[compute_units]
            )
        except Exception as error:
            raise ProgramError(
                f'{program.path}: Core ML cannot load the model ({error})'
            ) from error

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(inputs)
        ready = {
            feature.name: _native(inputs[feature.name], feature) for feature in self.program.inputs
        }
        try:
            return dict(self._model.predict(ready))
        except Exception as error:
            raise ProgramError(f'{self.program.path}: Core ML cannot predict ({error})') from error

    def _run_whole(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Label to index, dictionary to vector, arrays to tensors."""
        classes = self.program.classes or ()
        found = {}
        for name, value in self.predict(inputs).items():
            if name == self.program.predicted_feature_name:
                found[name] = torch.tensor(classes.index(value))
            elif name == self.program.predicted_probabilities_name:
                found[name] = torch.tensor([value[c] for c in classes])
            else:
                found[name] = torch.as_tensor(np.asarray(value))
        return found


def _native(value: Any, feature: Feature) -> Any:
    """One input in the form coremltools takes it."""
    if feature.kind == 'image':
        return to_pil(to_tensor(value, feature), feature)
    return np.asarray(value)
