"""Progress bars for the command line; the library itself only calls back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from spiketune.convert.calibration import Progress
from spiketune.finetune import OnBatch


@contextmanager
def bars(label: str, rounds: int, batches: int, unit: str = "batch") -> Iterator[OnBatch]:
    """Show one bar over all rounds, on a terminal only, and yield the callback that moves it.

    Args:
        label: what is going on.
        rounds: epochs, or networks, to go through.
        batches: batches a round.
        unit: what is counted.

    Yields:
        A function of round and batch, both from 1, and the loss (0 where there is none).

    Example:
        >>> with bars("training", rounds=1, batches=2) as on_batch:
        ...     on_batch(1, 2, 0.5)
    """
    with tqdm(total=rounds * batches, desc=label, unit=unit, leave=False, disable=None) as bar:

        def on_batch(now: int, batch: int, loss: float) -> None:
            bar.n = (now - 1) * batches + batch
            if loss:
                bar.set_postfix(epoch=f"{now}/{rounds}", loss=f"{loss:.3f}", refresh=False)
            bar.update(0)

        yield on_batch


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
