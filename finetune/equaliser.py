"""Make the gradients of all layers about as large as the last layer's, within one backward pass."""

from __future__ import annotations

import torch
from torch import Tensor


class Equaliser:
    """``δ <- δ · 1.2 ln(n_L/(n + 1e-5) + 1.02)``, ``n`` the mean ``|δ|`` of a layer.

    ``n_L``, that of the last layer, is rounded to three decimals; the last layer stays as it is,
    and goes backward first.

    Source: program of Yang, Zhang & Li 2021 (NA).

    Example:
        >>> equaliser = Equaliser()
        >>> _ = equaliser(torch.ones(4), last=True)
        >>> equaliser(torch.full((2,), 0.5), last=False)
        tensor([0.6631, 0.6631])
    """

    def __init__(self) -> None:
        self._goal: Tensor | None = None

    def __call__(self, gradient: Tensor, *, last: bool) -> Tensor:
        """Return the gradient ``[T, ...]`` of a layer, equalised."""
        mean = gradient.abs().mean()
        if last:
            self._goal = mean.round(decimals=3)
        if last or self._goal is None:
            return gradient
        return gradient * (1.2 * torch.log(self._goal / (mean + 1e-5) + 1.02))
