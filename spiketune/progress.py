"""Progress bars for the command line; the library itself only calls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from spiketune.convert.calibration import Progress
from spiketune.finetune import OnBatch, Update

OnRound = Callable[[int, int], None]


@contextmanager
def bars(label: str, rounds: int, batches: int, unit: str = "batch") -> Iterator[OnRound]:
    """Show one bar over all rounds, on a terminal only, and yield the callback that moves it.

    Args:
        label: what is going on.
        rounds: networks to go through, or other rounds.
        batches: batches a round.
        unit: what is counted.

    Yields:
        A function of round and batch, both from 1.

    Example:
        >>> with bars("comparing", rounds=1, batches=2) as on_batch:
        ...     on_batch(1, 2)
    """
    with tqdm(total=rounds * batches, desc=label, unit=unit, leave=False, disable=None) as bar:

        def on_batch(now: int, batch: int) -> None:
            bar.n = (now - 1) * batches + batch
            bar.update(0)

        yield on_batch


@contextmanager
def training_bar(label: str, epochs: int, *, shown: bool = True) -> Iterator[OnBatch]:
    """Show one bar over all epochs, on a terminal only: loss and accuracy so far, time left.

    Args:
        label: what is going on.
        epochs: passes over the images.
        shown: whether this process is the one that shows it.

    Yields:
        A function of each update.

    Example:
        >>> with training_bar("training", epochs=2) as on_batch:
        ...     on_batch(Update(
        ...         update=1, epoch=1, batch=1, batches=9, images=64, loss=0.5, accuracy=0.8,
        ...         learning_rate=1e-3, gradient_norm=0.7, seconds=2.0,
        ...     ))
    """
    hidden = None if shown else True
    with tqdm(desc=label, unit="batch", leave=False, disable=hidden) as bar:
        mean = _Mean()

        def on_batch(done: Update) -> None:
            now = (done.epoch - 1) * done.batches + done.batch
            if bar.total is None:
                bar.total = epochs * done.batches
                # A resumed run begins further on: what it did before tells nothing of its speed.
                bar.initial = bar.n = bar.last_print_n = now - 1
            loss, accuracy = mean.add(done)
            shown_now = f"epoch {done.epoch}/{epochs}, loss {loss:.3f}, accuracy {accuracy:.1%}"
            bar.set_postfix_str(shown_now, refresh=False)
            bar.update(now - bar.n)

        yield on_batch


class _Mean:
    """Loss and accuracy over the images of the epoch under way."""

    def __init__(self) -> None:
        self.epoch = self.images = 0
        self.loss = self.right = 0.0

    def add(self, done: Update) -> tuple[float, float]:
        if done.epoch != self.epoch:
            self.epoch, self.images, self.loss, self.right = done.epoch, 0, 0.0, 0.0
        self.images += done.images
        self.loss += done.images * done.loss
        self.right += done.images * done.accuracy
        return self.loss / self.images, self.right / self.images


@contextmanager
def bar(label: str) -> Iterator[Progress]:
    """Show one bar whose length the work tells, and yield the callback that moves it.

    Args:
        label: what is going on.

    Yields:
        A function of how many batches are done, and how many there are.

    Example:
        >>> with bar("calibrating") as progress:
        ...     progress(1, 2)
    """
    with tqdm(desc=label, unit="batch", leave=False, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total, shown.n = total, done
            shown.update(0)

        yield progress
