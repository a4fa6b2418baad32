"""Reproducible randomness that leaves the caller's random state as it was.

A loader that shuffles without a generator of its own draws from torch's global one. So each epoch
runs with the global generators seeded from the run's seed and the epoch's number, and what is
drawn while learning from a batch, by mixup, dropout or a rule, comes from a seed of that batch's
own. No state has to be kept: where a run stands says what it draws next, and the loader, replayed
after a resume without any training, draws just what it drew before.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .errors import TuneError


def mixed(seed: int, *place: int | str) -> int:
    """Return a seed of a place's own in a run.

    Example:
        >>> mixed(0, 1, 5) == mixed(0, 1, 5), mixed(0, 1, 5) == mixed(0, 1, 6)
        (True, False)
    """
    name = "/".join(map(str, (seed, *place))).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


@contextmanager
def seeded(seed: int, *place: int | str, device: torch.device) -> Iterator[None]:
    """Seed torch's, NumPy's and Python's generators for one place in a run; restore them after.

    Args:
        seed: of the run.
        place: what tells this place from all others, such as epoch and batch.
        device: its generator is seeded beside the CPU's.

    Example:
        >>> cpu = torch.device("cpu")
        >>> with seeded(0, 1, 5, device=cpu):
        ...     first = torch.rand(())
        >>> with seeded(0, 1, 5, device=cpu):
        ...     bool(first == torch.rand(()))
        True
    """
    before, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        own = mixed(seed, *place)
        # torch.manual_seed would also reseed devices that are not put back afterwards.
        torch.default_generator.manual_seed(own)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        random.seed(own)
        np.random.seed(own % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpys)


def samplers(loader: object) -> list[object]:
    """Return what decides on a loader's order, and the loader itself, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    ]
    return list({id(holder): holder for holder in holders if holder is not None}.values())


def generators(loader: object) -> list[torch.Generator]:
    """Return the generators that the caller gave the loader or its samplers, each once."""
    found = [getattr(holder, "generator", None) for holder in samplers(loader)]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def states(loader: object) -> list[torch.Tensor]:
    """Return where the loader's own generators stand."""
    return [generator.get_state() for generator in generators(loader)]


def restore(loader: object, states: list[torch.Tensor]) -> None:
    """Put the loader's own generators where they stood at the start of an epoch.

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
