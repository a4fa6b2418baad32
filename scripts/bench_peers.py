"""Integrate-and-fire networks in other libraries, written as their documentation shows.

A peer gives one layer of neurons, as a module in the place of an activation, and says how a
network of such modules sees time: one step after the other, or all steps folded into the batch.
All start at rest, fire at the threshold and reset softly with the reset left out of the gradient,
as far as the library offers it; slopes are arc tangents where it has them and its own otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """How one library runs a network.

    Attributes:
        package: what must be installed.
        unit: makes a layer of neurons from its threshold and the number of steps; it sends ones.
        reset: puts all neurons of a network to rest.
        whole: whether a network sees all steps at once.
        batch_first: whether an image's steps then follow one another in the batch.
        note: how it differs from the others.
    """

    package: str
    unit: Callable[[float, int], nn.Module]
    reset: Callable[[nn.Module], object]
    whole: bool = False
    batch_first: bool = False
    note: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can be run here."""
        return find_spec(self.package) is not None

    def run(self, body: nn.Module, current: Tensor, steps: int) -> Tensor:
        """Return what a network sends at each step ``[T, B, ...]`` for a constant ``current``."""
        self.reset(body)
        if not self.whole:
            return torch.stack([body(current) for _ in range(steps)])
        if self.batch_first:
            sent: Tensor = body(current.repeat_interleave(steps, 0))
            return sent.unflatten(0, (-1, steps)).transpose(0, 1)
        sent = body(current.repeat(steps, *[1] * (current.dim() - 1)))
        return sent.unflatten(0, (steps, -1))


class Fire(torch.autograd.Function):
    """A spike where the distance to the threshold is not negative; slope of an arc tangent."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        """Return ones and zeros."""
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient times the slope."""
        (distance,) = ctx.saved_tensors
        return grads[0] / (1 + (torch.pi * distance).square())


class PlainIF(nn.Module):
    """The neuron as anyone would write it in PyTorch: one step a call."""

    def __init__(self, threshold: float, steps: int) -> None:
        super().__init__()
        self.threshold = threshold
        self.membrane: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """Charge, fire, reset."""
        membrane = current if self.membrane is None else self.membrane + current
        spikes: Tensor = Fire.apply(membrane - self.threshold)
        self.membrane = membrane - self.threshold * spikes.detach()
        return spikes


class NorseIF(nn.Module):
    """A cell of norse and its state, which ``SequentialState`` would hand on in the same way."""

    def __init__(self, threshold: float, steps: int) -> None:
        super().__init__()
        from norse.torch import IAFCell, IAFParameters

        self.cell = IAFCell(IAFParameters(v_th=torch.tensor(threshold)))
        self.membrane: Any = None

    def forward(self, current: Tensor) -> Tensor:
        """Advance the cell one step."""
        spikes, self.membrane = self.cell(current, self.membrane)
        return spikes


class SpikingjellyWhole(nn.Module):
    """A multi-step node of spikingjelly between layers that see time folded into the batch."""

    def __init__(self, threshold: float, steps: int) -> None:
        super().__init__()
        self.node, self.steps = spikingjelly(threshold, steps, mode="m"), steps

    def forward(self, current: Tensor) -> Tensor:
        """Run all steps."""
        spikes: Tensor = self.node(current.unflatten(0, (self.steps, -1)))
        return spikes.flatten(0, 1)


def spikingjelly(threshold: float, steps: int, mode: str = "s") -> nn.Module:
    """Return a node of spikingjelly; it picks its fastest implementation for a device itself."""
    from spikingjelly.activation_based import neuron, surrogate

    node: nn.Module = neuron.IFNode(
        v_threshold=threshold,
        v_reset=None,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        step_mode=mode,
    )
    return node


def snntorch(threshold: float, steps: int) -> nn.Module:
    """Return a leaky neuron of snntorch that does not leak; its reset comes one step later."""
    from snntorch import Leaky, surrogate

    unit: nn.Module = Leaky(
        beta=1.0,
        threshold=threshold,
        spike_grad=surrogate.atan(),
        init_hidden=True,
        reset_mechanism="subtract",
    )
    return unit


def sinabs(threshold: float, steps: int) -> nn.Module:
    """Return the layer of sinabs for time folded into the batch, one spike a step at most."""
    from sinabs.activation import SingleSpike
    from sinabs.layers import IAFSqueeze

    unit: nn.Module = IAFSqueeze(
        num_timesteps=steps, spike_threshold=torch.tensor(threshold), spike_fn=SingleSpike
    )
    return unit


def _reset_spikingjelly(net: nn.Module) -> None:
    from spikingjelly.activation_based.functional import reset_net

    reset_net(net)


def _reset_snntorch(net: nn.Module) -> None:
    from snntorch import Leaky

    for unit in net.modules():
        if isinstance(unit, Leaky):
            unit.reset_mem()


def _reset_sinabs(net: nn.Module) -> None:
    from sinabs import reset_states

    reset_states(net)


def _reset_plain(net: nn.Module) -> None:
    for unit in net.modules():
        if isinstance(unit, PlainIF | NorseIF):
            unit.membrane = None


PEERS = {
    "plain PyTorch loop": Peer("torch", PlainIF, _reset_plain),
    "spikingjelly, multi-step": Peer(
        "spikingjelly", SpikingjellyWhole, _reset_spikingjelly, whole=True
    ),
    "spikingjelly, step by step": Peer("spikingjelly", spikingjelly, _reset_spikingjelly),
    "snntorch": Peer("snntorch", snntorch, _reset_snntorch, note="resets one step later"),
    "sinabs": Peer("sinabs", sinabs, _reset_sinabs, whole=True, batch_first=True),
    "norse": Peer("norse", NorseIF, _reset_plain, note="hard reset, the only one of its IF"),
}


def missing(names: list[str]) -> list[str]:
    """Return a line for each of these peers that is not installed."""
    return [
        f"{name}: skipped, {PEERS[name].package} is not installed (pip install -e '.[bench]')"
        for name in names
        if name in PEERS and not PEERS[name].installed
    ]
