"""The errors a user can cause; every message says what was found, where, and what to do next."""

from __future__ import annotations


class SpiketuneError(ValueError):
    """Base of every error that the command line shows as one sentence.

    Example:
        >>> issubclass(ConversionError, SpiketuneError)
        True
    """


class ConversionError(SpiketuneError):
    """A network, or one operation in it, that cannot become spiking.

    Args:
        path: where in the network, a module path such as ``layer1.0.act1``.
        found: what stands there.
        remedy: what the user can do about it.

    Example:
        >>> str(ConversionError("head", "aten.gelu", "use a ReLU network"))
        'head: aten.gelu; use a ReLU network'
    """

    def __init__(self, path: str, found: str, remedy: str) -> None:
        super().__init__(f"{path or 'network'}: {found}; {remedy}")
        self.path = path
        self.found = found
        self.remedy = remedy


class StorageError(SpiketuneError):
    """A file that is not, or not wholly, what it should be.

    Example:
        >>> raise StorageError("a.safetensors: cut short; copy it again")
        Traceback (most recent call last):
        ...
        spiketune.snn.errors.StorageError: a.safetensors: cut short; copy it again
    """
