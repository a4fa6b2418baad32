"""The units with a memory: thin modules around the pure steps of ``dynamics``.

A unit maps ``(x [T, B, ...], state or None) -> (y [T, B, ...], state)``; ``None`` starts fresh.
State is handed in and out and never enters ``state_dict``, so the batch size may change between
calls. ``ann(x [B, ...])`` is what the unit stood for in the network it came from: the limit that
its time average approaches, which calibration, tests and distillation compare with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dynamics import Firing, SoftReset, State, if_step, lif_step, over_time, signed_if_step
from .errors import SpiketuneError


class Temporal(nn.Module, ABC):
    """A unit whose output at a step depends on earlier steps.

    Example:
        >>> isinstance(IF(torch.tensor(1.0)), Temporal)
        True
    """

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run ``x [T, B, ...]`` from ``state`` and return the outputs and the state after."""

    @abstractmethod
    def ann(self, x: Tensor) -> Tensor:
        """Return the ANN's answer to ``x [B, ...]``."""


class Neuron(Temporal):
    """Base of the spiking neurons.

    Args:
        threshold: ``θ > 0``, in the units of the current, broadcastable to one sample: ``[]`` for
            a layer, ``[C, 1, 1]`` for channels, ``[C, H, W]`` for neurons.
        initial: membrane at the start, in thresholds; ``0.5`` rounds where ``0`` floors (Deng &
            Gu 2021; Bu et al. 2022).
        ceiling: largest value of the activation replaced (6 for ReLU6), None for ReLU.
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

    def __init__(
        self,
        threshold: Tensor,
        *,
        initial: Tensor | float = 0.0,
        ceiling: float | None = None,
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
        self.ceiling = ceiling
        self.firing = firing or Firing()
        self.folded = folded

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, shaped after ``current [T, B, ...]``."""
        dtype = torch.promote_types(current.dtype, self.threshold.dtype)
        membrane = (self.initial * self.threshold).to(dtype)
        return State(membrane.expand(current.shape[1:]))

    @abstractmethod
    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step, ``[B, ...]``."""

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the current ``[T, B, ...]`` and return spikes (in ANN units) and the state."""
        # Under autocast a layer hands in half precision; a membrane must not lose what it sums.
        x = x.to(torch.promote_types(x.dtype, self.threshold.dtype))
        spikes, state = over_time(self.step, x, self.start(x) if state is None else state)
        return (spikes / self.threshold if self.folded else spikes), state

    def ann(self, x: Tensor) -> Tensor:
        """Return the activation that this neuron replaces, ReLU or ReLU with a ceiling.

        A folded neuron answers in thresholds, as its spikes do.
        """
        active = x.clamp(0, self.ceiling)
        return active / self.threshold if self.folded else active

    def extra_repr(self) -> str:
        """Say the shape of the thresholds and what was set."""
        return f"threshold={list(self.threshold.shape)}, ceiling={self.ceiling}, {self.firing}"


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

    def __init__(
        self,
        threshold: Tensor,
        *,
        leak: Tensor | float,
        initial: Tensor | float = 0.0,
        ceiling: float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(threshold, initial=initial, ceiling=ceiling, firing=firing, folded=folded)
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

    def __init__(
        self,
        threshold: Tensor,
        *,
        limit: int | None = None,
        initial: Tensor | float = 0.0,
        ceiling: float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(threshold, initial=initial, ceiling=ceiling, firing=firing, folded=folded)
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


class CumulativeMaxPool2d(Temporal):
    """Max-pool of a signal over time: ``y(t) = pool(Σ_{k<=t} x(k)) - pool(Σ_{k<t} x(k))``.

    The sum of the outputs telescopes to the pooled sum of the inputs, so that, unlike the maximum
    of single steps, the time average is exactly the ANN's max-pool of the time average.

    Args:
        kernel_size: as in ``torch.nn.functional.max_pool2d``, like the four that follow.
        stride: see above.
        padding: see above.
        dilation: see above.
        ceil_mode: see above.

    Source: gating by accumulated sums, Rueckauer et al. 2017, section 2.2.4.

    Example:
        >>> pool = CumulativeMaxPool2d([2, 2], [2, 2])
        >>> y, _ = pool(torch.rand(5, 1, 3, 4, 4))
        >>> list(y.shape)
        [5, 1, 3, 2, 2]
    """

    def __init__(
        self,
        kernel_size: list[int],
        stride: list[int] | None = None,
        padding: list[int] | int = 0,
        dilation: list[int] | int = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride or kernel_size
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def ann(self, x: Tensor) -> Tensor:
        """Return the max-pool of ``x [B, C, H, W]``."""
        return functional.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run ``x [T, B, C, H, W]``; the state's membrane is the sum of the inputs so far."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        before = State(torch.zeros_like(x[0])) if state is None else state
        # Step by step: cumsum would round differently with every length of a chunk.
        sums, after = over_time(_accumulate, x, before)
        sums = torch.cat([before.membrane.unsqueeze(0), sums])
        pooled = self.ann(sums.flatten(0, 1))
        return pooled.view(*sums.shape[:2], *pooled.shape[1:]).diff(dim=0), after

    def extra_repr(self) -> str:
        """Say the window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


def _accumulate(current: Tensor, state: State) -> tuple[Tensor, State]:
    total = state.membrane + current
    return total, State(total)
