"""A data set of frames over time, held as the places of its events and laid out batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .errors import DataError

__all__ = ["EventFrames"]


class EventFrames(Dataset[tuple[Tensor, int]]):
    """Frames ``[T, P, H, W]`` and labels; 4 bytes an event instead of a byte a pixel and step.

    Args:
        places: of each sample, where its events lie in the flattened frames, from 0 to
            ``T P H W - 1``; a place that comes twice counts 2.
        labels: a class number for each sample.
        shape: ``(T, P, H, W)``.
        classes: the class names.

    Raises:
        DataError: Frames too large to count their places in 32 bits.

    Example:
        >>> data = EventFrames([[0, 5], [7]], [1, 0], (2, 1, 2, 2), ("no", "yes"))
        >>> frames, label = data[0]
        >>> frames.flatten().tolist(), label, data.tensors[0].shape
        ([1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], 1, torch.Size([2, 2, 1, 2, 2]))
    """

    def __init__(
        self,
        places: Iterable[NDArray[np.integer] | list[int]],
        labels: Iterable[int],
        shape: tuple[int, int, int, int],
        classes: tuple[str, ...],
    ) -> None:
        if math.prod(shape) >= 2**31:
            raise DataError(
                f"frames of {[*shape]} have more places than 32 bits count; take fewer steps"
            )
        parts = [torch.from_numpy(np.asarray(some, np.int32)) for some in places]
        self.places = torch.cat([torch.empty(0, dtype=torch.int32), *parts])
        lengths = torch.tensor([0, *map(len, parts)])
        self.starts = lengths.cumsum(0)
        self.labels = torch.tensor([*labels], dtype=torch.long)
        self.shape, self.classes = shape, classes

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all frames ``[N, T, P, H, W]`` as floats, and all labels; see ``dense``."""
        return self.dense(), self.labels

    def dense(
        self, indices: Tensor | list[int] | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Lay the frames of some samples out.

        Args:
            indices: which, None for all.
            dtype: of the frames; uint8 takes a quarter of the memory. Counts above 255 stay there.

        Returns:
            ``[n, T, P, H, W]``.

        Example:
            >>> data = EventFrames([[0, 0], [3]], [1, 0], (1, 1, 2, 2), ())
            >>> data.dense([1, 0], torch.uint8).flatten().tolist()
            [0, 0, 0, 1, 2, 0, 0, 0]
        """
        every = torch.arange(len(self))
        chosen = every if indices is None else every[indices]
        frames = torch.zeros(len(chosen), math.prod(self.shape), dtype=dtype)
        for row, index in zip(frames, chosen.tolist(), strict=True):
            places = self.places[self.starts[index] : self.starts[index + 1]]
            row.copy_(torch.bincount(places, minlength=len(row)).clamp_(max=255))
        return frames.view(-1, *self.shape)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return a batch; torch's loader asks for it at once instead of sample by sample."""
        labels = self.labels[indices].tolist()
        return list(zip(self.dense(indices).unbind(), labels, strict=True))
