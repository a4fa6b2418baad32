"""STDB, spike-timing-dependent backpropagation: weights of a converted network learn through time.

With current ``c``, membrane ``u[t] = λ m[t-1] + c[t]``, spike ``s[t] = 1[u[t] >= θ]``, membrane
after the reset ``m[t]``, slope ``h`` and the gradient ``g[t]`` at the output ``θ s[t]``:

    ``δ[t] = ∂L/∂c[t] = h[t] g[t] + r[t] λ δ[t+1]``

with ``r = 1`` for a soft and ``1 - s[t]`` for a hard reset: spikes in the reset are constants.

Source: Rathi, Srinivasan, Panda & Roy 2020, "Enabling deep spiking neural networks with hybrid
conversion and spike timing dependent backpropagation", section 4. Three differences: slopes are
relative to the threshold, as ``h = ∂s/∂(u/θ)``, so that they hold for any scale of the network;
a spike leaves in the step whose membrane it was decided from, where the authors' program sends it
one step later; and the leak acts on the membrane after the reset, where the paper subtracts the
whole threshold after the leak (the same for ``λ = 1``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketune.snn import LIF, HardReset, Linear, Neuron, SpikingNetwork, State, over_time

from .errors import TuneError
from .leaky import make_leaky, require_integrating
from .packing import unrolled
from .rules import Learn, Rule, Task, register_rule, through_time


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """``h[t] = α exp(-β Δ[t])``, with ``Δ`` steps since the neuron's spike before ``t``.

    It does not depend on the membrane: a neuron that spiked lately learns, whatever its membrane.

    Attributes:
        alpha: ``α``, slope at a gap of zero.
        beta: ``β``, rate at which it falls, a step.
        cutoff: largest gap with a slope above zero, None for no bound. The authors' program takes
            ``exp(-Δ)`` to the power ``β``, which is zero in float32 from ``Δ = 104`` on:
            ``cutoff=103``.
        silence: gap in the first step, of a neuron that has not spiked yet; it grows by one a step.
            With the authors' 1000 a neuron learns hardly anything before its first spike, which is
            too late where steps are few: below about 10 steps take 1.

    Raises:
        TuneError: on a value out of its range.

    Source: Rathi et al. 2020, section 4.

    Example:
        >>> Exponential()(torch.tensor([1.0, 100.0, 300.0]))
        tensor([0.2970, 0.1104, 0.0149])
    """

    alpha: float = 0.3
    beta: float = 0.01
    cutoff: int | None = None
    silence: int = 1000

    def __post_init__(self) -> None:
        checks = {
            "alpha": (self.alpha > 0, "above 0"),
            "beta": (self.beta >= 0, "0 or more"),
            "cutoff": (self.cutoff is None or self.cutoff >= 1, "at least 1, or None"),
            "silence": (self.silence >= 1, "at least 1"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise TuneError(f"{name} must be {allowed}, not {getattr(self, name)!r}")

    def __call__(self, gaps: Tensor) -> Tensor:
        """Return the slopes for ``Δ``, elementwise."""
        slopes = self.alpha * (-self.beta * gaps).exp()
        return slopes if self.cutoff is None else slopes.masked_fill(gaps > self.cutoff, 0)


@dataclass(frozen=True, kw_only=True)
class STDB(Rule):
    """Train the weights of a converted network through all steps; thresholds and leaks stay.

    Only IF and LIF neurons can be trained, with either reset.

    Attributes:
        slope: ``Linear``, which looks at the membrane and is the default of the authors' program;
            or ``Exponential``, the paper's, which looks at spike times.
        leak: ``λ`` in (0, 1] that every neuron gets, so that IF neurons leak from now on; None
            leaves each neuron's own.
        pack_spikes: keep spikes as bytes, a quarter of what floats take; answers and gradients stay
            the same to the bit. Not under bfloat16.

    Raises:
        TuneError: on a leak out of its range.

    Example:
        >>> STDB(leak=0.99).slope
        Linear(height=0.3)
    """

    slope: Exponential | Linear = field(default_factory=Linear)
    leak: float | None = None
    pack_spikes: bool = False

    remedy = "train with STDB(slope=Exponential(silence=1))"

    def __post_init__(self) -> None:
        if self.leak is not None and not 0 < self.leak <= 1:
            raise TuneError(f"leak must be above 0 and at most 1, or None, not {self.leak!r}")
        if not isinstance(self.slope, Exponential | Linear):
            raise TuneError(
                f"slope must be Exponential() or Linear(), not {self.slope!r}; SurrogateBPTT() "
                "takes any surrogate"
            )


@register_rule(STDB)
def stdb(snn: SpikingNetwork, rule: STDB, task: Task) -> Learn:
    """Set leaks and slopes and return the step that learns from one batch."""
    require_integrating(snn, "STDB")
    if rule.leak is not None:
        make_leaky(snn)
    for _, neuron in snn.neurons():
        neuron.threshold.requires_grad_(False)
        if isinstance(neuron, LIF):
            neuron.leak.requires_grad_(False)
            if rule.leak is not None:
                neuron.leak.fill_(rule.leak)
        neuron.firing = replace(neuron.firing, detach_reset=True)
        if isinstance(rule.slope, Linear):
            neuron.firing = replace(neuron.firing, surrogate=rule.slope)
        else:
            neuron.through = partial(timed, rule.slope)
    return through_time(snn, task, unrolled(snn, pack_spikes=rule.pack_spikes))


def timed(
    slope: Exponential, neuron: Neuron, current: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run an IF or LIF neuron whose gradient depends on the times of its spikes.

    Args:
        slope: ``h`` over the gaps between spikes.
        neuron: as it is; spikes and membranes are its own.
        current: ``[T, B, ...]``.
        state: its tracer, where there is one, holds the gap at the step before.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state, gaps in its tracer.

    Example:
        >>> from spiketune.snn import IF
        >>> current = torch.full((3, 1), 0.6, requires_grad=True)
        >>> neuron = IF(torch.tensor(1.0))
        >>> spikes, _ = timed(Exponential(silence=1), neuron, current, State(torch.zeros(1)))
        >>> spikes[1].backward()
        >>> current.grad.flatten()
        tensor([0.2941, 0.2941, 0.0000])
    """
    gaps = state.tracer
    if gaps is None:
        gaps = torch.full_like(state.membrane, slope.silence - 1)
    spikes, membrane, gaps = _Timed.apply(current, state.membrane, gaps, neuron, slope)
    return spikes, State(membrane, gaps)


class _Timed(torch.autograd.Function):
    """The neuron's own steps forward; the recursion of this module's first lines backward."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        membrane: Tensor,
        gaps: Tensor,
        neuron: Neuron,
        slope: Exponential,
    ) -> tuple[Tensor, Tensor, Tensor]:
        slopes: list[Tensor] = []

        def step(now: Tensor, state: State) -> tuple[Tensor, State]:
            assert state.tracer is not None
            gap = state.tracer + 1
            slopes.append(slope(gap))
            sent, after = neuron.step(now, State(state.membrane))
            return sent, State(after.membrane, gap.masked_fill(sent != 0, 0))

        spikes, state = over_time(step, current, State(membrane, gaps))
        kept = spikes == 0 if isinstance(neuron.firing.reset, HardReset) else None
        leak = neuron.leak if isinstance(neuron, LIF) else None
        ctx.save_for_backward(torch.stack(slopes), kept, leak)
        ctx.mark_non_differentiable(state.tracer)
        assert state.tracer is not None
        return spikes, state.membrane, state.tracer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        slopes, kept, leak = ctx.saved_tensors
        upstream, later, _ = grads  # at the spikes, at the membrane after the step
        found = torch.empty_like(slopes)
        for t in reversed(range(len(slopes))):
            found[t] = slopes[t] * upstream[t] + (later if kept is None else kept[t] * later)
            later = found[t] if leak is None else leak * found[t]
        return found, later, None, None, None
