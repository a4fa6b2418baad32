"""Progress bars for the command line; the library itself only calls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

OnBatch = Callable[[int, int, float], None]


@contextmanager
def bars(label: str, epochs: int, batches: int) -> Iterator[OnBatch]:
    """Show one bar over all epochs, and yield the callback that moves it.

    Args:
        label: what is going on.
        epochs: how many there will be.
        batches: batches an epoch.

    Yields:
        A function of epoch and batch, both from 1, and the loss.

    Example:
        >>> with bars("training", epochs=1, batches=2) as on_batch:
        ...     on_batch(1, 2, 0.5)
    """
    with tqdm(total=epochs * batches, desc=label, unit="batch", leave=False) as bar:

        def on_batch(epoch: int, batch: int, loss: float) -> None:
            bar.n = (epoch - 1) * batches + batch
            if loss:
                bar.set_postfix(epoch=f"{epoch}/{epochs}", loss=f"{loss:.3f}", refresh=False)
            bar.update(0)

        yield on_batch
