"""The two errors of this room, one sentence each that says what to do next; and what they wrap."""

from __future__ import annotations

import http.client

from spiketune.snn import SpiketuneError

# What a download raises, whoever fetches.
DOWNLOAD_ERRORS: tuple[type[BaseException], ...] = (OSError, http.client.HTTPException)
# torchvision, and torch.hub for it, report a checksum that differs as a RuntimeError.
TORCHVISION_ERRORS: tuple[type[BaseException], ...] = (*DOWNLOAD_ERRORS, RuntimeError)


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
