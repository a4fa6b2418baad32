"""OTTT, online training through time: each step's own gradient, met with a trace of past input.

With current ``c = W s_pre + b``, membrane ``u[t] = λ m[t-1] + c[t]``, slope ``h``, and ``g[t] =
∂L[t]/∂s[t]`` from the loss of the same step alone:

    ``δ[t] = h[t] g[t]``,   ``â[t] = λ â[t-1] + s_pre[t]``,   ``∇W = 1/T Σ_t δ[t] â[t]ᵀ``

since ``∂u[t]/∂W`` is ``â[t]`` where the reset is left out of the gradient. Only the layers before
the last neurons are approximated by taking ``g[t]`` from the same step.

Source: Xiao, Meng, Zhang, He & Lin 2022, "Online training through time for spiking neural
networks" (the variant that goes backward after each step and updates once a batch).
Differences here: a bias has a trace too, ``Σ_k λ^k``, and so has all that the image is turned into
before the first neuron, so that one layer of neurons gets the gradient of backpropagation through
time exactly; weights that lead to the answer and to no membrane have none, for the same reason;
thresholds train by what they do within a step, unless that is switched off; slopes are relative to
the threshold. The networks of the source have no BatchNorm; one is refused here, and so is what
else stands between a weight and its membrane but is not linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import Argument

from spiketune.snn import Monitor, Sigmoid, SpikingNetwork, Surrogate
from spiketune.snn.chunk import Moment, States, Values, only_input
from spiketune.snn.ops import WEIGHTED

from .online import Online, by_steps, require_steps
from .rules import Learn, Rule, Task, register_rule
from .surrogate_bptt import set_slopes
from .traces import leaks


@dataclass(frozen=True, kw_only=True)
class OTTT(Rule):
    """Train every step by itself, with traces of past input; memory does not grow with ``T``.

    For networks of convolutions, linear layers and neurons that reset softly and leak alike, such
    as ``Binary()`` and ``Ternary()`` make: their BatchNorms are folded.

    Attributes:
        surrogate: slope that stands for the spike's derivative; None leaves each neuron's own, as
            ``calibrate_gain`` sets it.
        train_thresholds: train the thresholds along with the weights.

    Example:
        >>> OTTT().surrogate
        Sigmoid(alpha=4.0)
    """

    surrogate: Surrogate | None = field(default_factory=Sigmoid)
    train_thresholds: bool = True


@register_rule(OTTT)
def ottt(snn: SpikingNetwork, rule: OTTT, task: Task) -> Learn:
    """Set the slope of every neuron and return the step that learns from one batch.

    Raises:
        TuneError: on a network that cannot learn step by step, or not by traces.
    """
    require_steps(snn, "OTTT")
    set_slopes(snn, rule.surrogate, detach_reset=True, train_thresholds=rule.train_thresholds)
    every = set(range(task.steps))
    return by_steps(snn, task, Traced(snn), lambda: every)


class Traced(Online):
    """A network whose weights get their gradients from traces of what they have met.

    Args:
        snn: the network.

    Raises:
        TuneError: naming what no trace can be kept for.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__(snn)
        self._leaks = leaks(self, snn.net)
        self._traces: dict[Node, Tensor] = {}
        self._step = 0

    def stem(self, image: Tensor) -> Values:
        """Compute the stem; a new batch has no traces yet."""
        self._traces, self._step = {}, 0
        return super().stem(image)

    def run(
        self, stem: Values, states: States, moment: Moment, *, monitor: Monitor | None = None
    ) -> tuple[object, States]:
        """Run one step; what enters it from the stem has done so at every step before."""
        self._step += 1
        now = dict(stem)
        for node, leak in self._leaks.stem.items():
            now[node] = _with_gradient(stem[node].detach(), self._ones(leak) * stem[node])
        return super().run(now, states, moment, monitor=monitor)

    def apply(self, node: Node, args: tuple[Argument, ...], value_of: Callable[[Node], Any]) -> Any:
        """Call what a node calls; where it holds a traced weight, gradients see the trace."""
        if node not in self._leaks.weights:
            return super().apply(node, args, value_of)
        leak, source, bias = self._leaks.weights[node], only_input(node), WEIGHTED[node.target][1]
        added = args[bias] if len(args) > bias else None
        trace = self._traced(node, leak, value_of(source).detach())

        def held(n: Node) -> Any:
            value = value_of(n)
            return value if n is source or not isinstance(value, Tensor) else value.detach()

        def met(n: Node) -> Any:
            if n is source:
                return trace
            return self._ones(leak) * value_of(n) if n is added else value_of(n)

        return _with_gradient(super().apply(node, args, held), super().apply(node, args, met))

    def _traced(self, node: Node, leak: float, arrived: Tensor) -> Tensor:
        """Return ``â[t] = λ â[t-1] + s_pre[t]`` of what has arrived at a node, ``[B, ...]``."""
        # Half precision, as autocast leaves it, is too coarse to sum over time.
        arrived = arrived.to(torch.promote_types(arrived.dtype, torch.float32))
        before = self._traces.get(node)
        self._traces[node] = arrived if before is None else leak * before + arrived
        return self._traces[node]

    def _ones(self, leak: float) -> float:
        """Return the trace of a constant 1 at the step at hand."""
        return sum(leak**k for k in range(self._step))


def _with_gradient(value: Tensor, of: Tensor) -> Tensor:
    """Return ``value``, to which the gradient of ``of`` is added; it changes no digit."""
    return value + (of - of.detach())
