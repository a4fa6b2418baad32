"""Several processes that train one network together, started by torchrun.

Every process learns from its own share of each batch, and the gradients of all are added up once
the rule has gone backward, weighted by the images that they come from.

**The same update as one process makes of the whole batch**, to rounding: for every rule here
(``SLTT(k=...)`` draws its steps for all processes together) and for the losses that are means over
the images: cross-entropy, ``TET``, ``RMP``, distillation, features. So are clipping, accumulation,
averaged weights, the reported loss and every accuracy. The batches must be the same, too: a loader
in fixed order, or a ``DistributedSampler`` in both cases, over images that come out even (else it
repeats a few).

**Not the same**, but alike on average:

- BatchNorm normalises each share by itself. Its running statistics are averaged after each update:
  with shares of equal size the mean is that of the batch, and the variance lacks what the means of
  the shares differ by.
- ``IMLoss`` squares a layer's mean over the share, not over the batch.
- Mixup and cutmix pair images within a share and draw ``λ`` and boxes for each; random erasing,
  Poisson input, augmentation and all else that is random draw from a stream of each process's own.
- A plain loader that shuffles is dealt out by a ``DistributedSampler``: each epoch has all images,
  in another order than in one process.

Tensors are those of process 0; what is no tensor, such as the slopes that ``calibrate_gain`` finds,
must be alike in all processes and is refused otherwise.

torch's ``DistributedDataParallel`` does not fit here: its hooks expect one forward and one backward
pass an update, while a rule may go backward many times, step by step, or through gradients that are
no derivatives.

Where one process alone fails, on a wrong label in its own share, torchrun ends the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from spiketune.snn import SpikingNetwork

from .batches import Loader
from .errors import TuneError
from .process_group import begin_group
from .randomness import samplers

T = TypeVar("T")
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run; alone by default, where everything here does nothing.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        device: where tensors must be to be sent.

    Example:
        >>> Processes().lead, Processes().total(1.0, 2.0)
        (True, [1.0, 2.0])
    """

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @property
    def lead(self) -> bool:
        """Whether this process writes, prints and calls back for all."""
        return self.rank == 0

    def total(self, *numbers: float) -> list[float]:
        """Return each number summed over the processes."""
        if self.count == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, a few large messages for all."""
        if self.count == 1:
            return
        kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
        for kind in kinds:
            same = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
            flat = torch.cat([tensor.flatten() for tensor in same])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_norms(self, network: nn.Module) -> None:
        """Average the running statistics of every BatchNorm."""
        if self.count == 1:
            return
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        kept = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
        with torch.no_grad():
            self.add_up(kept)
            for buffer in kept:
                buffer.div_(self.count)

    def spread(self, network: nn.Module) -> None:
        """Give every process the tensors of the first one."""
        if self.count > 1:
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    dist.broadcast(tensor, 0)

    def from_lead(self, value: T) -> T:
        """Return what the first process has here."""
        return self._of(0, value)

    def everywhere(self, value: T) -> list[T]:
        """Return what each process has here, in the order of their ranks."""
        return [self._of(rank, value) for rank in range(self.count)]

    def _of(self, rank: int, value: T) -> T:
        if self.count == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, rank, device=torch.device(self.device))
        found: T = box[0]
        return found

    def alone(self, action: Callable[[], None]) -> None:
        """Run what only one process may do; where it fails, all fail with its message."""
        failed: str | None = None
        if self.lead:
            try:
                action()
            except TuneError as error:
                if self.count == 1:
                    raise
                failed = str(error)
        failed = self.from_lead(failed)
        if failed is not None:
            raise TuneError(failed)


def find_processes() -> Processes:
    """Return the processes that torchrun, or the caller's own process group, has started.

    Under torchrun the group is made here, where the caller has not made one: gloo for tensors on
    the CPU, NCCL for those on CUDA devices. It stays, for the next run to use.
    """
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized():
        if not all(os.environ.get(key) for key in _TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
            return Processes()
        begin_group()
    return Processes(rank=dist.get_rank(), count=dist.get_world_size())


def own_device(device: torch.device | str | None, processes: Processes) -> torch.device | None:
    """Return this process's own device where ``cuda`` alone is asked for under torchrun.

    Raises:
        TuneError: if there is no such device.
    """
    if device is None:
        return None
    local = os.environ.get("LOCAL_RANK")
    try:
        found = torch.device(device)
        if processes.count > 1 and str(device) == "cuda" and local:
            found = torch.device("cuda", int(local))
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise TuneError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}); give "
            "device='cpu' (--device cpu on the command line)"
        ) from error
    return found


def distributes(loader: object) -> bool:
    """Whether a loader's sampler gives every process its own share, as DistributedSampler does."""
    return any(hasattr(holder, "num_replicas") for holder in samplers(loader))


def share(loader: Loader, processes: Processes, seed: int) -> Loader:
    """Return a loader over this process's share of the images.

    A loader whose sampler does that already is returned as it is; of a plain DataLoader a new one
    is made with a ``DistributedSampler``, which repeats a few images where they do not come out
    even. ``batch_size`` is that of one process.

    Raises:
        TuneError: if the loader cannot be shared, or is shared among other processes.
    """
    for holder in samplers(loader):
        replicas = getattr(holder, "num_replicas", None)
        if replicas is not None and (replicas, getattr(holder, "rank", None)) != (
            processes.count,
            processes.rank,
        ):
            raise TuneError(
                f"the loader's sampler shares its images among {replicas} processes, but "
                f"{processes.count} are running; make it with num_replicas={processes.count} and "
                f"rank={processes.rank}"
            )
    if processes.count == 1 or distributes(loader):
        return loader
    plain = (RandomSampler, SequentialSampler)
    if not (
        isinstance(loader, DataLoader)
        and type(loader.sampler) in plain
        and not getattr(loader.sampler, "replacement", False)
        and loader.batch_size is not None
    ):
        raise TuneError(
            f"{processes.count} processes cannot share this loader; give a DataLoader with "
            "batch_size, or one whose sampler is a DistributedSampler"
        )
    return _shared(loader, processes, seed)


def _shared(loader: DataLoader[Any], processes: Processes, seed: int) -> Loader:
    sampler: DistributedSampler[Any] = DistributedSampler(
        loader.dataset,
        processes.count,
        processes.rank,
        shuffle=isinstance(loader.sampler, RandomSampler),
        seed=seed,
        drop_last=loader.drop_last,
    )
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **workers,
    )


def begin_epoch(loader: object, epoch: int) -> None:
    """Tell the loader's samplers which epoch begins, so that they shuffle anew."""
    for holder in samplers(loader):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def require_equal_lengths(batches: int, processes: Processes) -> None:
    """Refuse processes with different numbers of batches: the ones would wait for the others.

    Raises:
        TuneError: naming both numbers.
    """
    lead = processes.from_lead(batches)
    differing = processes.total(float(lead != batches))[0]
    if differing:
        raise TuneError(
            f"process {processes.rank} has {batches} batches an epoch, process 0 has {lead}; "
            "give every process as many, for example by a DistributedSampler"
        )


def require_one_network(snn: SpikingNetwork, processes: Processes) -> None:
    """Refuse processes whose networks differ in more than the values of their tensors.

    Raises:
        TuneError: in every process.
    """
    if processes.count == 1:
        return
    shapes = {name: list(tensor.shape) for name, tensor in snn.state_dict().items()}
    neurons = [(name, type(neuron).__name__, neuron.firing) for name, neuron in snn.neurons()]
    mark = f"{snn.net.graph} {neurons} {shapes}"
    if processes.total(float(processes.from_lead(mark) != mark))[0]:
        raise TuneError(
            "the network is not the same in every process: graph, neurons or their slopes differ; "
            "build it alike, and calibrate slopes on the same images in each"
        )
