"""How a kernel sees a current: two shapes stand for all, so that few kernels serve a network.

A kernel runs over ``[T, N]`` where all tensors of a neuron are single numbers, and over
``[T, M, K]`` where they differ along the dimension that is last in memory: ``K`` is the channels
of a channels-last current, and all neurons of a sample otherwise. Both are views of the current.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from .pointwise import Kind, UnknownOperation


@dataclass(frozen=True)
class Layout:
    """How the samples ``[B, ...]`` of a current are laid out for a kernel.

    Attributes:
        shape: ``[B, ...]`` of the samples.
        width: ``K``, None for ``[N]``.
        moved: whether the channels lie last in memory though they are the second dimension.

    Example:
        >>> import torch
        >>> layout_of(torch.zeros(4, 2, 3, 5, 5), [torch.ones(3, 1, 1)]).width
        75
    """

    shape: tuple[int, ...]
    width: int | None
    moved: bool = False

    def flat(self, x: Tensor) -> Tensor:
        """Return samples, or sequences of them ``[T, B, ...]``, as the kernel sees them."""
        lead = x.shape[: x.dim() - len(self.shape)]
        wide = _last(x, len(self.shape)) if self.moved else x
        return wide.reshape(*lead, *(() if self.width is None else (-1,)), self.width or -1)

    def unflat(self, x: Tensor, *, sequence: bool) -> Tensor:
        """Return what ``flat`` made in its own shape again."""
        lead = x.shape[:1] if sequence else ()
        if not self.moved:
            return x.reshape((*lead, *self.shape))
        batch, channels, *pixels = self.shape
        return x.reshape(*lead, batch, *pixels, channels).movedim(-1, len(lead) + 1)

    def setting(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the neuron as one number, or ``[K]``."""
        if self.width is None or tensor.numel() == 1:
            return tensor.reshape(())
        more = max(0, tensor.dim() - len(self.shape) + 1)
        if tensor.shape[:more].numel() != 1:
            raise UnknownOperation("a setting that differs from image to image")
        tensor = tensor.reshape(tensor.shape[more:])
        if self.moved:
            return tensor.reshape(-1)
        return tensor.expand(self.shape[1:]).reshape(-1)


def layout_of(current: Tensor, tensors: Sequence[Tensor]) -> Layout:
    """Return the layout of a current ``[T, B, ...]`` for a neuron with these tensors.

    Args:
        current: its memory decides where the channels lie.
        tensors: each broadcastable to one sample.

    Example:
        >>> import torch
        >>> image = torch.zeros(4, 2, 3, 5, 5)
        >>> last = image.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (4, 2))
        >>> layout_of(last, [torch.ones(3, 1, 1)]).width
        3
    """
    shape = tuple(current.shape[1:])
    moved = channels_last(current[0])
    many = [tensor for tensor in tensors if tensor.numel() > 1]
    if not many:
        return Layout(shape, None, moved)
    by_channel = (shape[1], *[1] * (len(shape) - 2))
    moved = moved and all(tuple(tensor.shape) == by_channel for tensor in many)
    return Layout(shape, shape[1] if moved else prod(shape[1:]), moved)


def channels_last(samples: Tensor) -> bool:
    """Return whether the channels of ``[B, C, ...]`` lie last in memory, and only so.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 3, 4, 4)
        >>> channels_last(images), channels_last(images.to(memory_format=torch.channels_last))
        (False, True)
    """
    if samples.dim() < 3 or samples.is_contiguous():
        return False
    return _last(samples, samples.dim()).is_contiguous()


def dense(tensor: Tensor, kind: Kind) -> bool:
    """Return whether the places of a kernel's argument lie side by side, its steps anywhere.

    Example:
        >>> import torch
        >>> x = torch.zeros(4, 6)[::2]
        >>> dense(x, Kind.SEQUENCE), dense(x, Kind.SAMPLE)
        (True, False)
    """
    return tensor[0].is_contiguous() if kind is Kind.SEQUENCE else tensor.is_contiguous()


def _last(x: Tensor, dims: int) -> Tensor:
    """Return samples with the channels last."""
    return x.movedim(x.dim() - dims + 1, -1)
