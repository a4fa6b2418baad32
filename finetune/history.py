"""What a training run did, epoch by epoch, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        epoch: its number, from 1.
        images: images in the pass.
        loss: mean loss over the images.
        accuracy: share of the images answered rightly while training, 0 to 1.
        learning_rate: rate of the last update.
        seconds: wall time, validation included.
        validation: accuracy on the validation images, None without them.

    Example:
        >>> done = Epoch(
        ...     epoch=1, images=9, loss=0.5, accuracy=0.8, learning_rate=1e-3, seconds=2.0
        ... )
        >>> done.validation is None
        True
    """

    epoch: int
    images: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    validation: float | None = None


@dataclass(frozen=True)
class History:
    """All epochs of a run, those before a resume included.

    Example:
        >>> import json
        >>> from dataclasses import asdict
        >>> first = Epoch(
        ...     epoch=1, images=9, loss=0.5, accuracy=0.8, learning_rate=1e-3, seconds=2.0
        ... )
        >>> json.loads(json.dumps(asdict(History((first,)))))["epochs"][0]["accuracy"]
        0.8
    """

    epochs: tuple[Epoch, ...] = ()
