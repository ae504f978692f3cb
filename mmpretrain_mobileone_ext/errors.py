"""The package's exceptions: one line each, constructible from one string.

Every error states what was given, what is allowed and where it came from. mmengine's registry
re-raises construction errors as ``type(e)(message)``, so each class must accept a single string.
"""


class MobileOneExtError(Exception):
    """Base of every error this package raises for bad input or results."""


class SpecError(MobileOneExtError, ValueError):
    """An architecture, block or option that cannot be built as written."""


class FoldError(MobileOneExtError, ValueError):
    """Branches that cannot be folded exactly into one convolution."""


class CheckpointError(MobileOneExtError, RuntimeError):
    """A checkpoint that is unreadable, unsafe, or does not fit the model."""


class ClassNamesError(MobileOneExtError, ValueError):
    """Names of classes that stand for different labels in two places."""


class ProgramError(MobileOneExtError, RuntimeError):
    """A Core ML file that is unreadable or uses an unsupported operation."""


class ExportError(MobileOneExtError, RuntimeError):
    """A model or a request that cannot be exported to Core ML."""


class ParityError(MobileOneExtError, RuntimeError):
    """Two forms of one network disagree beyond a named tolerance."""


class KernelError(MobileOneExtError, RuntimeError):
    """Compiled kernels that cannot be built on this machine."""


class DivergedError(MobileOneExtError, RuntimeError):
    """A training whose loss is no number any more, or stays far above where it began."""
