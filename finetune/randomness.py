"""Reproducible shuffling that leaves the caller's random state as it was.

A loader that shuffles without a generator of its own draws from torch's global one. So each epoch
runs with the global generators seeded from the run's seed and the epoch's number, and afterwards
they are put back: epoch 3 of a resumed run shuffles like epoch 3 of one that never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import TuneError


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch's and Python's generators for one epoch and restore them afterwards.

    Example:
        >>> with seeded(0, 1, torch.device("cpu")):
        ...     first = torch.rand(())
        >>> with seeded(0, 1, torch.device("cpu")):
        ...     bool(first == torch.rand(()))
        True
    """
    before = random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # A large odd factor, so that epoch 2 of seed 0 is not epoch 1 of seed 1.
        mixed = (seed * 1_000_003 + epoch) % 2**63
        # torch.manual_seed would also reseed devices that are not put back afterwards.
        torch.default_generator.manual_seed(mixed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(mixed)
        random.seed(mixed)
        try:
            yield
        finally:
            random.setstate(before)


def generators(loader: object) -> list[torch.Generator]:
    """Return the generators that the caller gave the loader or its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    ]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def restore(loader: object, states: list[torch.Tensor]) -> None:
    """Put the loader's own generators where they stood at the end of an epoch.

    Raises:
        TuneError: if the loader has not the generators that the checkpoint was written with.
    """
    own = generators(loader)
    if len(own) != len(states):
        raise TuneError(
            f"the run was started with a loader that has {len(states)} random generators of its "
            f"own, this one has {len(own)}; give the same loader to resume exactly"
        )
    for generator, state in zip(own, states, strict=True):
        generator.set_state(state.cpu())
