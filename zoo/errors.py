"""The two errors of this room; both are one sentence that says what to do next."""

from __future__ import annotations

from spiketune.snn import SpiketuneError


class ModelError(SpiketuneError):
    """Say why a network cannot be loaded, and what to do instead.

    Example:
        >>> from spiketune.zoo import ModelError, load_ann
        >>> try:
        ...     load_ann("resnet18x")
        ... except ModelError as error:
        ...     print("resnet18" in str(error))
        True
    """


class DataError(SpiketuneError):
    """Say why a data set cannot be loaded, and what to do instead.

    Example:
        >>> from spiketune.zoo import DataError, load_data
        >>> try:
        ...     load_data("digit", "train")
        ... except DataError as error:
        ...     print("digits" in str(error))
        True
    """
