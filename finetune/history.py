"""What a training run did, update by update and epoch by epoch, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Update:
    """One step of the optimizer.

    Attributes:
        update: its number in the run, from 1.
        epoch: in which epoch, from 1.
        batch: number of the last batch that it learned from, from 1.
        batches: batches an epoch has; under torchrun those of one process.
        images: images that it learned from, of all processes together.
        loss: mean loss over these images.
        accuracy: share of them answered rightly, 0 to 1; under mixup the class with the larger
            share is the right one.
        learning_rate: the rate.
        gradient_norm: norm of the whole gradient before it was clipped.
        seconds: wall time since the epoch began.

    Example:
        >>> done = Update(
        ...     update=12, epoch=2, batch=3, batches=9, images=64, loss=0.5, accuracy=0.8,
        ...     learning_rate=1e-3, gradient_norm=0.7, seconds=2.0,
        ... )
        >>> done.batch / done.batches < 0.5
        True
    """

    update: int
    epoch: int
    batch: int
    batches: int
    images: int
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        epoch: its number, from 1.
        images: images in the pass, of all processes together.
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


@dataclass(kw_only=True)
class Tally:
    """What an epoch under way has come to so far, and with it where a run stands.

    Attributes:
        batch: batches of this epoch that are done.
        images: images seen.
        loss: sum of their losses.
        right: how many of them were answered rightly.
        seconds: wall time it took.

    Example:
        >>> tally = Tally()
        >>> tally.add(4, loss=2.0, right=3)
        >>> tally.loss / tally.images
        0.5
    """

    batch: int = 0
    images: int = 0
    loss: float = 0.0
    right: int = 0
    seconds: float = 0.0

    def add(self, images: int, *, loss: float, right: int) -> None:
        """Count so many images in, ``loss`` the sum of their losses."""
        self.images += images
        self.loss += loss
        self.right += right
