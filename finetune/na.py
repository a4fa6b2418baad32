"""NA, neighbourhood aggregation: a finite difference in place of the spike's derivative.

What a layer's gradient is, is told in ``aggregation``; between layers it goes backward as always.
There is no surrogate slope. Thresholds and leaks are constants.

Source: Yang, Zhang & Li 2021, "Backpropagated neighborhood aggregation for accurate training of
spiking neural networks" (ICML). Differences here: distances are in thresholds, so that one clip
serves any scale of the network; and where steps run in two stretches, as with a drive that ends
early, the second reaches the first through the membrane between them, as its gradient has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor

from spiketune.snn import LIF, HardReset, Neuron, SpikingNetwork, State, decay_behind

from .aggregation import Reach, na_gradient, sparse_na_gradient
from .equaliser import Equaliser
from .errors import TuneError
from .exact import ending, learn_exactly
from .leaky import require_integrating
from .own_gradient import Passed, over_steps, run_with_gradient
from .packing import unrolled
from .rules import Learn, Rule, Task, register_rule, through_time

# Steps from which following short chains one by one is faster than all neighbours to the end.
LONG = 256


@dataclass(frozen=True, kw_only=True)
class NA(Rule):
    """Train IF and LIF neurons by what would come of one spike more or less.

    ``NA.reference()`` has the settings of the authors' program.

    Attributes:
        error: ``"e"`` sums what is still to come, ``e[t] = g[t] + r e[t+1]``, as the paper does,
            where spikes arrive through a ``Synapse`` (see ``add_synapses``); ``"g"`` takes the
            gradient as it comes. Without synapses ``r = 0`` and both are the same. ``"exact"``
            computes the loss anew for each neighbour of the last neurons, whose spikes must be the
            answer, filtered or not, and takes ``e`` for all others; it costs ``T N`` losses an
            image, with ``N`` of them.
        power: of the distance to the threshold, 1 or 3.
        clip: largest ``1/distance``, in thresholds.
        equalise: make all layers' gradients about as large as the last one's; see ``Equaliser``.
        pack_spikes: keep spikes as bytes, a quarter of what floats take; answers and gradients stay
            the same to the bit. Not under bfloat16.

    Raises:
        TuneError: on a value out of its range.

    Example:
        >>> NA.reference()
        NA(error='e', power=3, clip=5.0, equalise=True, pack_spikes=False)
    """

    error: Literal["e", "g", "exact"] = "e"
    power: int = 1
    clip: float = 10.0
    equalise: bool = False
    pack_spikes: bool = False

    remedy = "give NA a larger clip"

    def __post_init__(self) -> None:
        if self.error not in ("e", "g", "exact"):
            raise TuneError(f"error must be 'e', 'g' or 'exact', not {self.error!r}")
        if self.power not in (1, 3):
            raise TuneError(f"power must be 1 or 3, not {self.power!r}")
        if not 0 < self.clip < float("inf"):
            raise TuneError(f"clip must be above 0, not {self.clip!r}; give 10")

    @classmethod
    def reference(cls) -> NA:
        """Return the settings of the authors' program: cube, clip 5, equalised."""
        return cls(power=3, clip=5.0, equalise=True)


class _Layer(NamedTuple):
    """What the gradient of one layer of neurons needs to know."""

    reach: Reach
    decay: float
    equaliser: Equaliser | None
    last: bool


@register_rule(NA)
def na(snn: SpikingNetwork, rule: NA, task: Task) -> Learn:
    """Give every neuron its gradient and return the step that learns from one batch.

    Raises:
        TuneError: on neurons that are not IF or LIF, or an error that cannot be had.
    """
    require_integrating(snn, "NA")
    end = ending(snn, task.steps) if rule.error == "exact" else None
    reach = Reach(power=rule.power, clip=rule.clip)
    equaliser = Equaliser() if rule.equalise else None
    nodes = list(snn.neuron_nodes())
    for node, neuron in nodes:
        decay = decay_behind(snn, node) if rule.error != "g" else 0.0
        if decay and snn.drive is not None and snn.drive < task.steps:
            raise TuneError(
                f"{node.name}: with drive={snn.drive} of {task.steps} steps the errors of later "
                "ones are not at hand; train with NA(error='g')"
            )
        neuron.threshold.requires_grad_(False)
        if isinstance(neuron, LIF):
            neuron.leak.requires_grad_(False)
        last = node is nodes[-1][0]
        neuron.through = partial(aggregated, _Layer(reach, decay, equaliser, last))
    unroll = unrolled(snn, pack_spikes=rule.pack_spikes)
    if end is not None:
        return learn_exactly(snn, task, unroll, end, reach, equaliser)
    return through_time(snn, task, unroll)


def aggregated(
    layer: _Layer, neuron: Neuron, current: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run an IF or LIF neuron with this module's gradient.

    Args:
        layer: settings.
        neuron: as it is; spikes and membranes are its own.
        current: ``[T, B, ...]``.
        state: before the first step.

    Returns:
        Spikes times threshold ``[T, B, ...]``, and the state after.

    Example:
        >>> import torch
        >>> from spiketune.snn import IF
        >>> current = torch.full((3, 1), 0.6, requires_grad=True)
        >>> layer = _Layer(Reach(), 0.0, None, False)
        >>> spikes, _ = aggregated(layer, IF(torch.tensor(1.0)), current, State(torch.zeros(1)))
        >>> spikes[2].backward()
        >>> current.grad.flatten()
        tensor([ 2.5000, -5.0000,  5.0000])
    """
    return run_with_gradient(partial(_backward, layer), neuron, current, state)


def _backward(layer: _Layer, passed: Passed) -> tuple[Tensor, Tensor | None]:
    long = len(passed.current) > LONG and isinstance(passed.firing.reset, HardReset)
    rule = sparse_na_gradient if long else na_gradient
    gradient = partial(rule, firing=passed.firing, reach=layer.reach, decay=layer.decay)
    found = over_steps(gradient, (rule, layer.reach, layer.decay), passed)
    if layer.equaliser is not None:
        found = layer.equaliser(found, last=layer.last)
    before = None
    if passed.earlier:
        before = found[0] if passed.leak is None else passed.leak * found[0]
    return found, before
