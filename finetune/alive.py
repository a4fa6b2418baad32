"""Tell a network that cannot learn, for a layer of it never fires or cannot fire more, at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from spiketune.snn import SpikingNetwork

from .errors import TuneError
from .rules import Unroll


class Alive:
    """Looks at the first batch of a run: a layer that sends no spike there is refused.

    Later batches may be dark, and neurons may fall silent while they learn: training goes on.

    Args:
        remedy: what else to do about it, in words.
        begun: whether the run had a first batch before, as when it goes on from a checkpoint.

    Example:
        >>> import torch
        >>> alive = Alive("")
        >>> alive({"relu": torch.tensor([[0.0, 1.0]])})
    """

    def __init__(self, remedy: str, begun: Callable[[], bool] = lambda: False) -> None:
        self.remedy, self.begun = remedy, begun
        self.asked = False

    def __call__(self, sent: Mapping[str, Tensor]) -> None:
        """Check what neurons sent, ``[B, ...]`` by name, the first time that it is called.

        Raises:
            TuneError: naming the first layer that is silent, and the remedy.
        """
        if self.asked or self.begun():
            return
        self.asked = True
        for name, spikes in sent.items():
            if not bool(spikes.any()):
                raise TuneError(
                    f"{name}: none of its {spikes[0].numel()} neurons fired on the first batch, so "
                    "no input reaches their thresholds and nothing before them would learn; scale "
                    "the weights before them up or their thresholds down, look whether the images "
                    f"are all black, {self.remedy}"
                )


def watched(
    names: Collection[str],
    remedy: str,
    begun: Callable[[], bool],
    most: Mapping[str, float] | None = None,
) -> Unroll:
    """Return what runs a network and asks on the first batch whether its neurons can learn.

    Args:
        names: of the neurons that must not be silent.
        remedy: see ``Alive``.
        begun: see ``Alive``.
        most: spikes an image from which on a neuron learns nothing, for the layers that have such;
            not all of a layer may be there.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.twin(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), 5, (4,))
        >>> list(watched((), "", lambda: False)(snn, torch.rand(2, 4), 5).shape)
        [5, 2, 3]
    """
    alive, most = Alive(remedy, begun), most or {}

    def unroll(snn: SpikingNetwork, images: Tensor, steps: int) -> Tensor:
        counts: dict[str, Tensor] = {}

        def see(name: str, spikes: Tensor) -> None:
            if name in names or name in most:
                fired = (spikes.detach() != 0).sum(0)
                counts[name] = counts[name] + fired if name in counts else fired

        first = not (alive.asked or begun())
        chunks = list(snn.outputs(images, steps, monitor=see if first else None))
        alive({name: count for name, count in counts.items() if name in names})
        _require_room(counts, most)
        return torch.cat(chunks)

    return unroll


def _require_room(counts: Mapping[str, Tensor], most: Mapping[str, float]) -> None:
    for name, spikes in counts.items():
        if bool((spikes >= most.get(name, math.inf)).all()):
            raise TuneError(
                f"{name}: all of its {spikes[0].numel()} neurons fired as often as their rest lets "
                "them on the first batch, so that more current changes nothing and nothing before "
                "them would learn; scale the weights before them down or their thresholds up, or "
                "give the rule saturated='full'"
            )
