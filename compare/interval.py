"""How sure an accuracy is."""

from __future__ import annotations

from math import sqrt

from spiketune.snn import SpiketuneError

# Two-sided 95 % of the normal distribution.
Z95 = 1.959963984540054


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, in percent.

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = hits / trials``. Unlike
    ``p ± z √(p(1-p)/n)`` it never leaves 0 to 100 and holds at both ends (Wilson 1927).

    Args:
        hits: how often it was right.
        trials: how often it was asked.

    Returns:
        The lower and the upper end.

    Raises:
        SpiketuneError: unless ``0 <= hits <= trials`` and ``trials > 0``.

    Example:
        >>> [round(end, 2) for end in wilson(90, 100)]
        [82.56, 94.48]
    """
    if not 0 <= hits <= trials or trials == 0:
        raise SpiketuneError(f"{hits} hits of {trials} trials have no share; count again")
    share, square = hits / trials, Z95**2 / trials
    centre = share + square / 2
    spread = Z95 * sqrt(share * (1 - share) / trials + square / (4 * trials))
    # At the ends the square root equals the centre, but for rounding.
    low = 0.0 if hits == 0 else (centre - spread) / (1 + square)
    high = 1.0 if hits == trials else (centre + spread) / (1 + square)
    return 100 * low, 100 * high
