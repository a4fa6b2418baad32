"""Spike times written a second time, in NumPy, on a fine grid and without sorting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = Callable[[Array], Array]


def linear(tau: float) -> Shape:
    return lambda x: np.where(x > 0, x / tau, 0.0)


def ramp(tau: float) -> Shape:
    return lambda x: np.where(x > 0, np.minimum(x / tau, 1.0), 0.0)


def triangle(rise: float, fall: float) -> Shape:
    return lambda x: np.where(
        x > 0, np.clip(np.minimum(x / rise, 1 + (rise - x) / fall), 0, 1), 0.0
    )


def step() -> Shape:
    return lambda x: np.where(x >= 0, 1.0, 0.0)


def membranes(times: Array, weights: Array, shape: Shape, at: Array, horizon: float) -> Array:
    """Return ``V [K, T]`` of times ``[N]`` and weights ``[K, N]`` at the times ``at [T]``."""
    spikes = times < horizon
    return np.asarray(weights[:, spikes] @ shape(at[None] - times[spikes, None]))


def windows(times: Array, size: int, stride: int, padding: int, horizon: float) -> Array:
    """Return what each place of a convolution sees of ``[C, H, W]``, ``[H', W', C size size]``."""
    wide = np.pad(times, ((0, 0), (padding, padding), (padding, padding)), constant_values=horizon)
    down, right = ((side - size) // stride + 1 for side in wide.shape[1:])
    return np.stack(
        [
            [
                wide[:, y * stride : y * stride + size, x * stride : x * stride + size].ravel()
                for x in range(right)
            ]
            for y in range(down)
        ]
    )
