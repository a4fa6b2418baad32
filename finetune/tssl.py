"""TSSL-BP: gradients through the times of the spikes.

A spike leaves in the step in which the potential reaches the threshold; a little more current, and
it would have left a little earlier. With ``u[t] = λ m[t-1] + c[t]`` before the reset, ``m[t]``
after it, both in thresholds, a spike ``s[t]`` and the gradient ``g[t]`` at the output ``θ s[t]``,
the time ``t_m`` of a spike moves by

    ``ψ[t] = ∂t_m/∂u[t] = -1/(u[t] - m[t-1])``, at least ``-bound``; 0 in a silent step

and the gradient at the potential, and so at the current, is, from the last step to the first,

    ``x[t] = -ψ[t] g[t] + x[t+1] (-ψ[t] u[t] (1 - λ) + λ (1 - s[t]))``

The first term is the spike's effect on other neurons, the second its effect on the neuron's own
later steps: an earlier spike takes the potential away earlier. A neuron that is nearly silent has
no times to move. Where its own spikes, filtered as the synapses behind it filter them,
``b[t] = r b[t-1] + s[t]``, are fewer than ``warm``, the gradient is that of a surrogate slope:

    ``δ[t] = h(u[t] - 1) g[t]`` where ``b[t] < warm``, else ``x[t]``

while ``x`` goes on as it is. The authors sum the effect on the filtered spikes ``a`` in
``E[t] = Σ_{m>=t} r^(m-t) ∂L/∂a[m]``; behind a ``Synapse`` that is what autograd brings back,
``g[t] = E[t]/τ_s``, in as many operations as there are steps.

Source: Zhang & Li 2020, "Temporal spike sequence learning via backpropagation for deep spiking
neural networks" (NeurIPS), inter- and intra-neuron dependencies, in the form of the authors'
program: ``-1/(u - m)`` for the derivative of a crossing, the bound 8, and the slope of nearly
silent neurons are from there. Not taken over: dropout of 0.2 and weights kept in [-4, 4].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from spiketune.snn import (
    LIF,
    Firing,
    HardReset,
    Neuron,
    Sigmoid,
    SpikingNetwork,
    State,
    Surrogate,
    decay_behind,
)
from spiketune.snn.checks import positive

from .aggregation import Cell
from .errors import TuneError
from .leaky import require_integrating
from .own_gradient import Passed, over_steps, run_with_gradient
from .rules import Learn, Rule, Task, register_rule, through_time


@dataclass(frozen=True, kw_only=True)
class TSSL(Rule):
    """Train IF and LIF neurons with a hard reset to 0 by the times of their spikes.

    Thresholds and leaks are constants. Without synapses behind a neuron ``b[t] = s[t]``: every
    silent step takes the slope.

    Attributes:
        bound: largest ``-ψ``, in steps by threshold.
        warm: spikes, filtered, below which a slope stands in; None where none is to: then a
            layer that never fires never learns.
        slope: the slope of nearly silent neurons.

    Raises:
        TuneError: on a bound or a ``warm`` that is not above 0.

    Example:
        >>> TSSL().slope
        Sigmoid(alpha=5.0)
    """

    bound: float = 8.0
    warm: float | None = 0.25
    slope: Surrogate = field(default_factory=lambda: Sigmoid(alpha=5.0))

    remedy = "leave warm= of TSSL and its slope as they are by default"

    def __post_init__(self) -> None:
        if not positive(self.bound):
            raise TuneError(f"TSSL: bound must be above 0, not {self.bound!r}; give 8")
        if self.warm is not None and not positive(self.warm):
            raise TuneError(
                f"TSSL: warm must be above 0, not {self.warm!r}; give 0.25, or None to leave "
                "nearly silent neurons without a gradient"
            )
        if not isinstance(self.slope, Surrogate):
            raise TuneError(f"TSSL: slope must be one such as Sigmoid(alpha=5), not {self.slope!r}")


class Timing(NamedTuple):
    """What the gradient of a layer's neurons needs to know beside the neurons.

    Attributes:
        bound: as in ``TSSL``.
        warm: as in ``TSSL``.
        slope: as in ``TSSL``.
        decay: ``r`` of the synapses behind the neurons, 0 for none.

    Example:
        >>> Timing().decay
        0.0
    """

    bound: float = 8.0
    warm: float | None = 0.25
    slope: Surrogate = Sigmoid(alpha=5.0)
    decay: float = 0.0


@register_rule(TSSL)
def tssl(snn: SpikingNetwork, rule: TSSL, task: Task) -> Learn:
    """Give every neuron its gradient and return the step that learns from one batch.

    Raises:
        TuneError: on neurons that are not IF or LIF with a hard reset to 0, or on spikes that are
            filtered behind a drive that ends early.
    """
    require_integrating(snn, "TSSL")
    for node, neuron in snn.neuron_nodes():
        if neuron.firing.reset != HardReset():
            raise TuneError(
                f"{node.name}: TSSL's reset term is that of a hard reset to 0, not of "
                f"{neuron.firing.reset}; build the network with Firing(reset=HardReset()), or tune "
                "with SurrogateBPTT()"
            )
        decay = decay_behind(snn, node)
        if decay and snn.drive is not None and snn.drive < task.steps:
            raise TuneError(
                f"{node.name}: with drive={snn.drive} of {task.steps} steps the filtered spikes "
                "of the first ones are not at hand later; build the network with drive=None"
            )
        neuron.threshold.requires_grad_(False)
        if isinstance(neuron, LIF):
            neuron.leak.requires_grad_(False)
        timing = Timing(rule.bound, rule.warm, rule.slope, decay)
        neuron.through = partial(timed, timing)
    return through_time(snn, task)


def timed(timing: Timing, neuron: Neuron, current: Tensor, state: State) -> tuple[Tensor, State]:
    """Run an IF or LIF neuron with this module's gradient.

    Args:
        timing: settings.
        neuron: as it is; spikes and membranes are its own.
        current: ``[T, B, ...]``.
        state: before the first step.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.

    Example:
        >>> from spiketune.snn import IF
        >>> neuron = IF(torch.tensor(1.0), firing=Firing(reset=HardReset()))
        >>> current = torch.full((2, 1), 0.75, requires_grad=True)
        >>> spikes, _ = timed(Timing(warm=None), neuron, current, State(torch.zeros(1)))
        >>> spikes[1].backward()  # the spike's potential rose by 0.75 in its step
        >>> current.grad.flatten()
        tensor([1.3333, 1.3333])
    """
    return run_with_gradient(partial(_backward, timing), neuron, current, state)


def _backward(timing: Timing, passed: Passed) -> tuple[Tensor, Tensor | None]:
    gradient = partial(tssl_gradient, firing=passed.firing, timing=timing)
    found, before = over_steps(gradient, (tssl_gradient, timing), passed), None
    if passed.earlier:  # a slope that stands in goes no further back than its step
        cold = timing._replace(warm=None)
        plain = partial(gradient, timing=cold)
        before = over_steps(plain, (tssl_gradient, cold), passed)[0]
        before = before if passed.leak is None else passed.leak * before
    return found, before


def tssl_gradient(
    current: Tensor,
    error: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    leak: Tensor | None,
    last: Tensor | None = None,
    *,
    firing: Firing,
    timing: Timing,
) -> Tensor:
    """Return ``δ [T, ...]``, the gradient at the current of IF or LIF neurons with a hard reset.

    Membranes and spikes are computed again, with the operations of the neuron's own steps. Plain
    loops over steps, nothing in place, no branch on a value: ready to be traced.

    Args:
        current: ``c [T, ...]``.
        error: ``g [T, ...]`` at the output ``θ s``, so that ``θ`` cancels.
        membrane: before the first step, ``[...]``.
        threshold: ``θ``, broadcastable to the membrane.
        leak: ``λ``, None for 1.
        last: gradient at the membrane after the last step, None for zeros.
        firing: reset and comparison.
        timing: the rule's settings.

    Example:
        >>> firing = Firing(reset=HardReset(), strict=True)
        >>> current, one = torch.tensor([0.6, 0.7, 0.2, 0.9]).view(4, 1), torch.tensor(1.0)
        >>> error = torch.tensor([0.0, 0.0, 0.0, 0.5]).view(4, 1)
        >>> tssl_gradient(
        ...     current, error, torch.zeros(1), one, 0.8 * one, firing=firing,
        ...     timing=Timing(warm=None)
        ... ).flatten()
        tensor([0.1514, 0.1893, 0.4651, 0.5814])
    """
    cell = Cell(threshold, leak, firing)
    charged, fired, after = cell.run(current, membrane)
    before, errors = [membrane, *after[:-1]], error.unbind(0)
    quiet = _quiet(fired, membrane, timing)
    # What a spike that comes earlier takes away: (1 - λ), of what λ x[t+1] is carried back as.
    leaked = None if leak is None else (1 - leak) / leak
    carried, found = last, []
    for t in reversed(range(len(fired))):
        rise = (charged[t] - before[t]) / threshold
        # Bounded from below before it is divided by. A spike without a rise, as a membrane that
        # starts above the threshold sends it, does not move.
        earlier = 1 / rise.clamp_min(1 / timing.bound)
        moved = errors[t]
        if carried is not None and leaked is not None:
            moved = moved + carried * leaked * (charged[t] / threshold)
        silent = torch.zeros_like(rise) if carried is None else carried
        x = torch.where(fired[t], torch.where(rise > 0, earlier * moved, 0.0), silent)
        slope = timing.slope.slope(charged[t] / threshold - 1)
        found.append(x if quiet is None else torch.where(quiet[t], slope * errors[t], x))
        carried = x if leak is None else leak * x
    return torch.stack(found[::-1])


def _quiet(fired: list[Tensor], membrane: Tensor, timing: Timing) -> list[Tensor] | None:
    """Return at which steps a neuron's own filtered spikes are too few to go by their times."""
    if timing.warm is None:
        return None
    trace, found = torch.zeros_like(membrane), []
    for s in fired:
        trace = timing.decay * trace + s.to(trace.dtype)
        found.append(trace < timing.warm)
    return found
