"""The error of a training run that cannot start or cannot go on."""

from __future__ import annotations

from spiketune.snn import SpiketuneError


class TuneError(SpiketuneError):
    """A training run that was asked for something it cannot do; says what to do instead.

    Example:
        >>> raise TuneError("epochs must be at least 1, not 0")
        Traceback (most recent call last):
        ...
        spiketune.finetune.errors.TuneError: epochs must be at least 1, not 0
    """
