"""The units with a memory: thin modules around the pure steps of ``dynamics``.

A unit maps ``(x [T, B, ...], state or None) -> (y [T, B, ...], state)``; ``None`` starts fresh.
State is handed in and out and never enters ``state_dict``, so the batch size may change between
calls. ``ann(x [B, ...])`` is what the unit stood for in the network it came from: the limit that
its time average approaches, which calibration, tests and distillation compare with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .dynamics import Firing, SoftReset, State, if_step, lif_step, over_time, signed_if_step
from .errors import SpiketuneError


class Temporal(nn.Module, ABC):
    """A unit whose output at a step depends on earlier steps.

    Example:
        >>> isinstance(IF(torch.tensor(1.0)), Temporal)
        True
    """

    # Whether it must see all steps of a run at once; the time axis is not cut into chunks then.
    whole: bool = False

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

    # What describes a neuron beside its tensors: arguments and attributes of these names.
    settings: tuple[str, ...] = ("floor", "ceiling", "firing", "folded")
    # Its tensors that are arguments of the same name.
    tensors: tuple[str, ...] = ("threshold", "initial", "ceiling")
    # Set by training rules with a gradient of their own; spikes and state must stay the same.
    through: Through | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one neuron at every step, beyond adding, leaking, comparing."""
        return 0

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

    def run(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the current ``[T, B, ...]`` and return spikes times threshold and the state."""
        return over_time(self.step, current, state)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the current ``[T, B, ...]`` and return spikes (in ANN units) and the state."""
        # Under autocast a layer hands in half precision; a membrane must not lose what it sums.
        x = x.to(torch.promote_types(x.dtype, self.threshold.dtype))
        state = self.start(x) if state is None else state
        if self.through is not None and torch.is_grad_enabled():
            spikes, state = self.through(self, x, state)
        else:
            spikes, state = self.run(x, state)
        return (spikes / self.threshold if self.folded else spikes), state

    def ann(self, x: Tensor) -> Tensor:
        """Return the activation that this neuron stands for, ``clamp(x, floor, ceiling)``.

        A folded neuron answers in thresholds, as its spikes do.
        """
        active = self.activation(x)
        return active / self.threshold if self.folded else active

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


class IF(Neuron):
    """Integrate-and-fire neuron, binary spikes (equation: ``dynamics.if_step``).

    Example:
        >>> spikes, _ = IF(torch.tensor(1.0))(torch.full((3, 1), 0.6))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return if_step(current, state, self.threshold, self.firing)


class LIF(Neuron):
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
        value = torch.as_tensor(leak, dtype=threshold.dtype, device=threshold.device)
        if not bool(((value > 0) & (value <= 1)).all()):
            raise SpiketuneError("a leak must lie in (0, 1]; 1 means a neuron without leak")
        self.leak = nn.Parameter(value.detach().clone(), requires_grad=False)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return lif_step(current, state, self.threshold, self.leak, self.firing)


class SignedIF(Neuron):
    """Ternary neuron with a tracer (equation: ``dynamics.signed_if_step``).

    Args:
        threshold: as in ``Neuron``.
        limit: most spikes the tracer may hold, None for no bound.
        initial: as in ``Neuron``.
        floor: as in ``Neuron``.
        ceiling: as in ``Neuron``.
        firing: as in ``Neuron``; a hard reset is refused, the tracer would lose count.
        folded: as in ``Neuron``.

    Raises:
        SpiketuneError: on a hard reset.

    Example:
        >>> spikes, _ = SignedIF(torch.tensor(1.0))(torch.tensor([[1.2], [-0.9], [0.0]]))
        >>> spikes.flatten().tolist()
        [1.0, -1.0, 0.0]
    """

    settings = (*Neuron.settings, "limit")

    def __init__(
        self,
        threshold: Tensor,
        *,
        limit: int | None = None,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold, initial=initial, floor=floor, ceiling=ceiling, firing=firing, folded=folded
        )
        if not isinstance(self.firing.reset, SoftReset):
            raise SpiketuneError("a signed neuron resets softly; use Firing(reset=SoftReset())")
        self.limit = limit

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, with an empty tracer."""
        membrane = super().start(current).membrane
        return State(membrane, torch.zeros_like(membrane))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return signed_if_step(current, state, self.threshold, self.limit, self.firing)
