"""The units with a memory: thin modules around the pure steps of ``dynamics``.

A unit maps ``(x [T, B, ...], state or None) -> (y [T, B, ...], state)``; ``None`` starts fresh.
State is handed in and out and never enters ``state_dict``, so the batch size may change between
calls. ``ann(x [B, ...])`` is what the unit stood for in the network it came from: the limit that
its time average approaches, which calibration, tests and distillation compare with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from .checks import leak_of
from .dynamics import Firing, State, fire_and_reset, if_charge, lif_charge, over_time
from .errors import SpiketuneError
from .fused.paths import precise, run_neuron
from .units import register_unit


class Temporal(nn.Module, ABC):
    """A unit whose output at a step depends on earlier steps.

    Example:
        >>> isinstance(IF(torch.tensor(1.0)), Temporal)
        True
    """

    # What a saved network holds of it: plain arguments and attributes of one name, and tensors of
    # its own that are arguments of that name too.
    settings: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    # Whether it must see all steps of a run at once; the time axis is not cut into chunks then.
    whole: bool = False
    # Whether it only sends on, later, what arrives: spikes behind it are those before it.
    relays: bool = False

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of its parameters that training has to keep within some."""
        return {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a value at every step, beyond adding, leaking once, comparing."""
        return 0

    @property
    def sends_spikes(self) -> bool:
        """Whether spikes leave it, rather than values."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run ``x [T, B, ...]`` from ``state`` and return the outputs and the state after."""

    @abstractmethod
    def ann(self, x: Tensor) -> Tensor:
        """Return the ANN's answer to ``x [B, ...]``."""


Through = Callable[["Neuron", Tensor, State], tuple[Tensor, State]]


class Neuron(Temporal):
    """Base of the spiking neurons.

    Args:
        threshold: ``θ > 0``, in the units of the current, broadcastable to one sample: ``[]`` for
            a layer, ``[C, 1, 1]`` for channels, ``[C, H, W]`` for neurons.
        initial: membrane at the start, in thresholds; ``0.5`` rounds where ``0`` floors (Deng &
            Gu 2021; Bu et al. 2022).
        floor: least value of the activation replaced: 0 for ReLU, None for a neuron that sends
            a signed value on as it is.
        ceiling: its largest value (6 for ReLU6), None for no bound; a tensor where channels
            differ.
        firing: reset, comparison, surrogate.
        folded: emit bare ``s`` instead of ``θ s``, because the next weights hold ``θ``.

    Raises:
        SpiketuneError: if a threshold is not above zero.

    Example:
        >>> neuron = IF(torch.tensor(0.5), initial=0.5)
        >>> spikes, state = neuron(torch.full((4, 1, 1), 0.3))
        >>> spikes.mean().item()
        0.25
    """

    settings: tuple[str, ...] = ("floor", "ceiling", "firing", "folded")
    tensors: tuple[str, ...] = ("threshold", "initial", "ceiling")
    # Whether conversion balances its threshold; it is given where a curve is trained for it.
    balanced: bool = True
    # Whether it sends ``s`` and never ``θ s``: the weights behind know nothing of its threshold.
    bare: bool = False
    # Whether neurons see each other's spikes from step to step, which no kernel lets them.
    mixes: bool = False
    # Set by training rules with a gradient of their own; spikes and state must stay the same.
    through: Through | None = None

    @property
    def sends_spikes(self) -> bool:
        """Yes."""
        return True

    @property
    def own_fan_out(self) -> Tensor | None:
        """How many weights a spike of each neuron meets within the layer itself, None for none."""
        return None

    def __init__(
        self,
        threshold: Tensor,
        *,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if not bool((threshold > 0).all()):
            raise SpiketuneError("a threshold must be above zero everywhere; recalibrate the layer")
        self.threshold = nn.Parameter(threshold.detach().clone(), requires_grad=False)
        start = torch.as_tensor(initial, dtype=threshold.dtype, device=threshold.device)
        self.register_buffer("initial", start.detach().clone())
        self.initial: Tensor
        self.floor = floor
        self.set_ceiling(ceiling)
        self.firing = firing or Firing()
        self.folded = folded

    def set_ceiling(self, ceiling: Tensor | float | None) -> None:
        """Set the activation's largest value; a tensor is kept as a buffer, as thresholds are."""
        self.__dict__.pop("ceiling", None)
        if isinstance(ceiling, Tensor):
            self.register_buffer("ceiling", ceiling.detach().clone())
        else:
            self.ceiling: Tensor | float | None = ceiling

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, shaped after ``current [T, B, ...]``."""
        dtype = torch.promote_types(current.dtype, self.threshold.dtype)
        membrane = (self.initial * self.threshold).to(dtype)
        return State(membrane.expand(current.shape[1:]))

    @abstractmethod
    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step, ``[B, ...]``."""

    def keeps(self) -> Tensor | None:
        """Return the share ``λ`` of its membrane that a soft reset leaves after a silent step.

        None where a step does more than charge a membrane, as by default.
        """
        return None

    def run(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the current ``[T, B, ...]`` and return spikes times threshold and the state."""
        return over_time(self.step, current, state)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        spent: tuple[bool, bool] = (False, False),
    ) -> tuple[Tensor, State]:
        """Run the current ``[T, B, ...]`` and return spikes (in ANN units) and the state.

        Where the current or the state is ``spent``, needed by nobody afterwards, what is made
        without gradients may take its place.
        """
        if self.through is not None and torch.is_grad_enabled():
            x = precise(self, x)
            spikes, state = self.through(self, x, self.start(x) if state is None else state)
        else:
            spikes, state = run_neuron(self, x, state, spent=spent)
        return (spikes / self.threshold if self.folded or self.bare else spikes), state

    def ann(self, x: Tensor) -> Tensor:
        """Return the activation that this neuron stands for, ``clamp(x, floor, ceiling)``.

        In thresholds where its spikes are.
        """
        active = self.activation(x)
        return active / self.threshold if self.folded or self.bare else active

    def activation(self, x: Tensor) -> Tensor:
        """Return ``clamp(x, floor, ceiling)``, in the units of the current."""
        active = x if self.floor is None else x.clamp_min(self.floor)
        if isinstance(self.ceiling, Tensor):
            return active.minimum(self.ceiling)
        return active if self.ceiling is None else active.clamp_max(self.ceiling)

    def events(self, spikes: Tensor, first: int = 0) -> Tensor:
        """Return how many spikes each output ``[T, B, ...]``, sent from step ``first``, holds."""
        return spikes != 0

    def extra_repr(self) -> str:
        """Say the shape of the thresholds and what was set."""
        bounds = f"floor={self.floor}, ceiling={self.ceiling}"
        return f"threshold={list(self.threshold.shape)}, {bounds}, {self.firing}"


class Charging(Neuron):
    """Base of the binary neurons: charge the membrane, fire once or not, reset.

    ``u[t] = charge(v[t-1], c[t])``; ``s[t] = 1[u[t] >= θ]``; reset of ``u[t]`` to ``v[t]``.
    What tells one from another is ``charge`` alone, which losses and rules ask for too.

    Example:
        >>> IF(torch.tensor(1.0)).charge(torch.tensor(0.5), torch.tensor(0.25)).item()
        0.75
    """

    @abstractmethod
    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        """Return the membrane before it may fire, given the one after the last step."""

    @final
    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return fire_and_reset(self.charge(state.membrane, current), self.threshold, self.firing)


@register_unit
class IF(Charging):
    """Integrate-and-fire neuron, binary spikes (equation: ``dynamics.if_step``).

    Example:
        >>> spikes, _ = IF(torch.tensor(1.0))(torch.full((3, 1), 0.6))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        """Return ``v + c``."""
        return if_charge(membrane, current)

    def keeps(self) -> Tensor:
        """Return 1: nothing leaks."""
        return self.threshold.new_ones(())


@register_unit
class LIF(Charging):
    """Leaky integrate-and-fire neuron, binary spikes (equation: ``dynamics.lif_step``).

    Args:
        threshold: as in ``Neuron``.
        leak: ``λ`` in (0, 1], what remains of the membrane after one step.
        initial: as in ``Neuron``.
        floor: as in ``Neuron``.
        ceiling: as in ``Neuron``.
        firing: as in ``Neuron``.
        folded: as in ``Neuron``.

    Raises:
        SpiketuneError: if the leak lies outside (0, 1].

    Example:
        >>> spikes, _ = LIF(torch.tensor(1.0), leak=0.5)(torch.full((3, 1), 0.6))
        >>> spikes.flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    tensors = (*Neuron.tensors, "leak")

    def __init__(
        self,
        threshold: Tensor,
        *,
        leak: Tensor | float,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        self.leak = leak_of(leak, threshold)

    def charge(self, membrane: Tensor, current: Tensor) -> Tensor:
        """Return ``λ v + c``."""
        return lif_charge(membrane, current, self.leak)

    def keeps(self) -> Tensor:
        """Return the leak ``λ``."""
        return self.leak
