"""The loss of spike trains: when the neurons of the classes are to fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node

from spiketune.snn import Neuron, SpikingNetwork, Synapse, Temporal
from spiketune.snn.alpha import alpha_filter
from spiketune.snn.checks import number, positive

from ..errors import TuneError
from ..rules import Batch, Criterion
from .counts import of_classes, require_targets
from .loss import Loss, Scene, register_loss

Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SpikeTrain(Loss):
    """``L = ½ Σ_t Σ_k (a_k[t] - ā_k[t])²`` of filtered trains, the mean over images.

    ``a`` are the outputs ``[T, B, classes]``, ``ā`` the spikes that are wanted, filtered alike:
    the distance of van Rossum. The label's class is to fire as ``hit`` says, the others as
    ``miss``; a pattern shorter than ``T`` repeats, so that one serves any number of steps.

    Attributes:
        tau: time constant of the filter, in steps. None where the network filters its answer
            itself, as ``add_synapses(output=True)`` lets it, or nothing is to be filtered.
        kernel: ``low_pass`` is that of ``Synapse``; ``alpha`` rises first, ``(t/τ) e^{1-t/τ}``.
        passes: how often ``ā`` is filtered; 2 is what the programs of NA and TSSL-BP do.
        hit: spikes of the label's class, a step each.
        miss: spikes of all others.

    Raises:
        TuneError: on an empty pattern, two patterns alike, or a value out of its range.

    Sources: van Rossum 2001, the distance; Zhang & Li 2020 (TSSL-BP), a label that fires at every
    step but the first of five; Yang, Zhang & Li 2021 (NA), at every step; Shrestha & Orchard 2018
    (SLAYER), with the alpha kernel.

    Example:
        >>> SpikeTrain(hit=(0, 1, 1, 1, 1)).passes
        1
    """

    tau: float | None = None
    kernel: Literal["low_pass", "alpha"] = "low_pass"
    passes: int = 1
    hit: tuple[float, ...] = (1.0,)
    miss: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for name in ("hit", "miss"):
            given = getattr(self, name)
            if not isinstance(given, list | tuple) or not all(map(number, given)):
                raise TuneError(
                    f"SpikeTrain: {name} must be the spikes of some steps, such as (0, 1, 1, 1, "
                    f"1), not {given!r}"
                )
            object.__setattr__(self, name, tuple(map(float, given)))  # files have lists
        if not self.hit or not self.miss or self.hit == self.miss:
            raise TuneError(
                f"SpikeTrain: hit={self.hit} and miss={self.miss} tell no class from another; "
                "give the spikes of some steps, such as hit=(0, 1, 1, 1, 1) and miss=(0,)"
            )
        if self.kernel not in ("low_pass", "alpha"):
            raise TuneError(f"SpikeTrain: kernel must be low_pass or alpha, not {self.kernel!r}")
        if self.passes not in (1, 2) or isinstance(self.passes, bool):
            raise TuneError(f"SpikeTrain: passes must be 1 or 2, not {self.passes!r}")
        if self.kernel == "alpha" and self.tau is None:
            raise TuneError("SpikeTrain: the alpha kernel needs a time constant; give tau=")
        least = 1 if self.kernel == "low_pass" else 0
        if self.tau is not None and not (positive(self.tau) and self.tau >= least):
            raise TuneError(
                f"SpikeTrain: tau must be {'at least 1 step' if least else 'above 0 steps'} for "
                f"kernel={self.kernel!r}, not {self.tau!r}"
            )


@register_loss(SpikeTrain)
def spike_train(loss: SpikeTrain, scene: Scene) -> Criterion:
    """Return the criterion.

    Raises:
        TuneError: if the answer would be filtered twice, or the targets by nothing twice.
    """
    require_targets(scene, "SpikeTrain")
    own = _own_filter(scene.snn)
    if own is not None and loss.tau is not None:
        raise TuneError(
            f"SpikeTrain: the network filters its answer already, so tau={loss.tau} would filter "
            "it again; leave tau out, or build the network without that filter"
        )
    of_outputs = None if loss.tau is None else _filter(loss.kernel, loss.tau)
    of_targets = of_outputs or own
    if of_targets is None and loss.passes == 2:
        raise TuneError(
            "SpikeTrain: passes=2 filters the targets once more, but nothing is filtered here; "
            "give tau=, or build the network with a synapse at its answer"
        )

    def wanted(pattern: tuple[float, ...], outputs: Tensor) -> Tensor:
        steps = len(outputs)
        spikes = outputs.new_tensor((pattern * steps)[:steps]).view(-1, 1, 1)
        for _ in range(loss.passes if of_targets is not None else 0):
            assert of_targets is not None
            spikes = of_targets(spikes)
        return spikes

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        share = of_classes(batch.labels, outputs)
        with torch.no_grad():
            goal = torch.lerp(wanted(loss.miss, outputs), wanted(loss.hit, outputs), share)
        sent = outputs if of_outputs is None else of_outputs(outputs)
        return (sent - goal).square().sum() / (2 * outputs.shape[1])

    return scene.taught(criterion)


def _filter(kernel: str, tau: float) -> Filter:
    if kernel == "alpha":
        return partial(alpha_filter, tau=tau)
    synapse = Synapse(tau=tau)
    return lambda spikes: synapse(spikes)[0]


def _own_filter(snn: SpikingNetwork) -> Filter | None:
    """Return the filter that the network's answer comes through, None where there is none."""
    (answer,) = snn.net.graph.find_nodes(op="output")
    last = answer.args[0]
    if not isinstance(last, Node) or last.op != "call_module":
        return None
    unit = snn.net.get_submodule(str(last.target))
    if not isinstance(unit, Temporal) or isinstance(unit, Neuron):
        return None
    return lambda spikes: unit(spikes)[0]
