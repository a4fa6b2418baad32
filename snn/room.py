"""Say what would fit where memory runs out: images at once, steps at once, what to switch on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import SpiketuneError

if TYPE_CHECKING:
    from .network import SpikingNetwork

# In the words of PyTorch's allocator on the CPU, which raises a plain RuntimeError.
_SAID = ("not enough memory", "can't allocate memory")


@contextmanager
def within_memory(snn: SpikingNetwork, x: Tensor, steps: int, *, chunk: int) -> Iterator[None]:
    """Turn running out of memory inside the block into a sentence with the remedy.

    Args:
        snn: what runs.
        x: images ``[B, ...]``.
        steps: ``T``.
        chunk: steps at once; all of them while gradients are kept.

    Raises:
        SpiketuneError: naming chunk, what lowers memory, and about how many images would fit.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
        >>> snn = st.to_snn(ann, torch.rand(16, 4), st.Ternary(steps=8))
        >>> with within_memory(snn, torch.rand(9, 4), 8, chunk=2):
        ...     pass  # what runs
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and not any(words in str(error) for words in _SAID):
            raise
        raise SpiketuneError(_advice(snn, x, steps, chunk)) from error


def bytes_an_image(snn: SpikingNetwork, steps: int, *, chunk: int, training: bool) -> int:
    """Return about how much memory an image needs.

    While gradients are kept, every value of every step; else the neurons' states and, for the
    steps of a chunk, the largest values, one on its way in and one on its way out.
    """
    shapes = snn.shapes()
    width = next((p.element_size() for p in snn.parameters()), 4)
    sizes = {node: numbers_of(shapes[node]) * width for node in snn.program.body}
    if training:
        return steps * sum(sizes.values())
    states = sum(size for node, size in sizes.items() if snn.program.is_unit(node))
    return states + 2 * chunk * max(sizes.values(), default=0)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    if device.type != "cpu" or not told.exists():
        return None
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _advice(snn: SpikingNetwork, x: Tensor, steps: int, chunk: int) -> str:
    training = torch.is_grad_enabled()
    each = bytes_an_image(snn, steps, chunk=chunk, training=training)
    free = free_memory(x.device)
    fits = "" if free is None else f", so that about {max(1, free // max(1, each))} would fit"
    needs = f"an image needs about {max(1, round(each / 1e6))} MB{fits}"
    if training:
        return (
            f"out of memory with {len(x)} images at once over {steps} steps, all kept for the way "
            f"back: {needs}; give a smaller batch and Training(accumulate=...), "
            "SurrogateBPTT(recompute_steps=..., recompute_blocks=..., pack_spikes=True), or SLTT "
            "or OTTT, whose memory does not grow with T"
        )
    shorter = ", or unroll with chunk=1" if chunk > 1 else ""
    return (
        f"out of memory with {len(x)} images at once in chunks of {chunk} steps: {needs}; give a "
        f"smaller batch{shorter}"
    )


def numbers_of(shape: Any) -> int:
    """Return how many numbers a value of this shape holds, or several in a list do.

    What is no shape, as of a node that gives no tensor, holds none.

    Example:
        >>> numbers_of((2, 3)), numbers_of(((2, 3), (4,))), numbers_of(None)
        (6, 10, 0)
    """
    if not isinstance(shape, tuple | list):
        return 0
    if any(isinstance(part, tuple) for part in shape):
        return sum(numbers_of(part) for part in shape)
    return prod(shape)
