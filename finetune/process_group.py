"""Make the group of processes that torchrun has started, and end it in time."""

from __future__ import annotations

import atexit

import torch.distributed as dist


def begin_group() -> None:
    """Make the default group: gloo for tensors on the CPU, NCCL for those on CUDA devices.

    Example:
        >>> begin_group()  # doctest: +SKIP
    """
    dist.init_process_group()
    # While its threads can still be joined: torn down later, they may abort the process.
    atexit.register(_end_group)


def _end_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
