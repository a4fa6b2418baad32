"""Count spikes, and what they meet, in one pass over what neurons sent."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .c_build import library
from .c_kernel import threads
from .paths import whichever_pays

# A block of fan-outs stays in the nearest caches while all images of all steps go by.
_BLOCK = 16384
# A value is told from zero by its bits, all but that of the sign, where it has one.
_WORDS = {
    1: ("uint8_t", "0xff"),
    2: ("uint16_t", "0x7fff"),
    4: ("uint32_t", "0x7fffffff"),
    8: ("uint64_t", "0x7fffffffffffffff"),
}
_SOURCE = """\
#include <stdint.h>

void tally(const int64_t *sizes, int threads, const WORD *at, const uint32_t *restrict fan_out,
           int64_t *restrict spikes, int64_t *restrict met) {
    const int64_t steps = sizes[0], images = sizes[1], places = sizes[2];
    const int64_t stride = sizes[3], block = sizes[4];
#pragma omp parallel for num_threads(threads) schedule(static) if(threads > 1) \\
    reduction(+: spikes[:steps], met[:steps])
    for (int64_t first = 0; first < places; first += block) {
        const int64_t size = first + block < places ? block : places - first;
        const uint32_t *restrict weight = fan_out + first;
        for (int64_t step = 0; step < steps; ++step)
            for (int64_t image = 0; image < images; ++image) {
                const WORD *restrict x = at + step * stride + image * places + first;
                uint32_t count = 0, sum = 0;
                for (int64_t i = 0; i < size; ++i) {
                    const uint32_t fires = -(uint32_t)((x[i] & KEPT) != 0);
                    count -= fires;
                    sum += fires & weight[i];
                }
                spikes[step] += count;
                met[step] += sum;
            }
    }
}
"""


def tally(sent: Tensor, fan_out: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Return the spikes of each step, and what they meet: ``Σ_i 1[s_i(t) != 0] F_i``.

    Exact: whole numbers in 64 bits.

    Args:
        sent: ``[T, B, N]``, of any type with a zero.
        fan_out: what one spike meets, ``F [N]``, in ``int32``, none below 0.
        largest: of the fan-outs, or any number above.

    Returns:
        Two tensors ``[T]`` of ``int64``.

    Example:
        >>> sent = torch.tensor([[[0.0, 0.5, -0.5]], [[0.0, 0.0, 2.0]]])
        >>> tally(sent, torch.tensor([1, 10, 100], dtype=torch.int32), 100)
        (tensor([2, 1]), tensor([110, 100]))
    """
    if sent.device.type != "cpu":  # few calls for all steps: there each one costs
        return tally_several(sent != 0, fan_out)
    if sent.numel() == 0:
        return tally_eagerly(sent, fan_out)
    return whichever_pays(
        ("tally", sent.element_size()),
        sent.numel(),
        "cpu",
        lambda: _through_kernel(sent, fan_out, largest),
        lambda: tally_eagerly(sent, fan_out),
    )


def tally_eagerly(sent: Tensor, fan_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``tally`` does, by PyTorch's own operations.

    Example:
        >>> tally_eagerly(torch.ones(1, 4, 2), torch.tensor([1, 2], dtype=torch.int32))
        (tensor([8]), tensor([12]))
    """
    # Step by step in one buffer: memory for all steps costs more than counting does. In single
    # precision sums are vectorised, and exact for fewer than 2^24 images.
    fires = torch.empty(sent.shape[1:], dtype=torch.float32, device=sent.device)
    found = sent.new_zeros(2, len(sent), dtype=torch.long)
    for step, now in enumerate(sent):
        counts = torch.ne(now, 0, out=fires).sum(0).long()
        found[0, step] = counts.sum()
        found[1, step] = (counts * fan_out).sum()
    return found[0], found[1]


def tally_several(events: Tensor, fan_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``tally`` does where each value ``[T, B, N]`` is a number of spikes.

    Example:
        >>> tally_several(torch.full((1, 4, 2), 3.0), torch.tensor([1, 2], dtype=torch.int32))
        (tensor([24]), tensor([36]))
    """
    counts = events.sum(1, dtype=torch.long)
    return counts.sum(1), (counts * fan_out).sum(1)


def _through_kernel(sent: Tensor, fan_out: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    steps, images, places = sent.shape
    if not sent[0].is_contiguous():
        sent = sent.contiguous()
    fan_out = fan_out.contiguous()
    found = torch.zeros(2, steps, dtype=torch.long, device=sent.device)
    # Sums of one block fit in 32 bits.
    block = min(_BLOCK, (2**32 - 1) // max(largest, 1))
    sizes = (ctypes.c_int64 * 5)(steps, images, places, sent.stride(0), block)
    _kernel(sent.element_size())(
        sizes, threads(), sent.data_ptr(), fan_out.data_ptr(),
        found[0].data_ptr(), found[1].data_ptr(),
    )  # fmt: skip
    return found[0], found[1]


@cache
def _kernel(size: int) -> Callable[..., None]:
    word, kept = _WORDS[size]
    entry = library(_SOURCE.replace("WORD", word).replace("KEPT", kept)).tally
    entry.argtypes = (ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 4)
    entry.restype = None
    return entry
