"""What spikes meet, laid out in memory as what neurons send is."""

from __future__ import annotations

import torch
from torch import Tensor

from spiketune.snn.fused.layout import channels_last


class FanOut:
    """How many weights each spike of one source meets.

    Args:
        fan_out: of one image, ``[...]`` or, where a reshape has made ``k`` rows of each image or
            put the images behind another dimension, ``[k, ...]``.

    Example:
        >>> sent, weights = FanOut(torch.tensor([3.0, 5.0])).beside(torch.zeros(8, 4, 2))
        >>> list(sent.shape), weights.tolist()
        ([8, 4, 2], [3, 5])
    """

    def __init__(self, fan_out: Tensor) -> None:
        # Whole numbers by definition; an average pool's 1/k² times k² leaves float dust behind.
        self._one = fan_out.round().to(torch.int32)
        self.largest = int(self._one.max()) if self._one.numel() else 0
        self._shape: tuple[int, ...] = ()
        self._last = False
        self._flat = self._one.flatten()

    def beside(self, sent: Tensor) -> tuple[Tensor, Tensor]:
        """Return what was sent, ``[T, B, ...]``, as ``[T, K, N]``, and the fan-outs ``[N]``.

        ``K`` counts what has the same fan-outs, most often the images. Channels that lie last in
        memory are left there.
        """
        rows = self._one if self._one.dim() == sent.dim() - 1 else self._one.unsqueeze(0)
        if rows.shape[1:] != sent.shape[2:]:
            rows = rows.expand(sent.shape[1:])  # the images lie behind another dimension
        last = len(rows) == 1 and channels_last(sent[0])
        if last:
            sent, rows = sent.movedim(2, -1), rows.movedim(1, -1)
        if (tuple(rows.shape), last) != (self._shape, self._last):
            self._shape, self._last, self._flat = tuple(rows.shape), last, rows.reshape(-1)
        return sent.reshape(len(sent), -1, rows.numel()), self._flat
