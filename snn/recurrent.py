"""Layers whose neurons also hear each other: dense ones and reservoirs on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.fx import Node

from .checks import positive
from .dynamics import Firing, State, over_time
from .errors import SpiketuneError
from .network import SpikingNetwork
from .refractory import Refractory
from .synapse import Synapse
from .units import register_unit


@register_unit
class Recurrent(Refractory):
    """A layer of ``N`` refractory neurons that send spikes to each other, one step later.

    To the current from outside it adds ``Σ_l W_il p_l[t]/τ``, ``p_l[t] = r p_l[t-1] + θ s_l[t-1]``
    with ``r = 1 - 1/τ``: spikes from within pass weights and a synapse as those from without do.
    The limit that ``ann`` tells is that of the layer without these connections.

    Args:
        threshold: as in ``Neuron``.
        weight: ``W [N, N]``, from neuron ``l`` to neuron ``i``.
        tau: ``τ``, in steps; 1 does not filter.
        wiring: ``[N, N]``, 1 where there is a connection, 0 elsewhere; by default all but those of
            a neuron to itself.
        leak: as in ``Refractory``, like those that follow.
        period: see above.
        initial: see above.
        floor: see above.
        ceiling: see above.
        firing: see above.
        folded: see above; the weights within act on ``θ s`` in any case.

    Raises:
        SpiketuneError: on weights that are not square or do not fit the wiring, on a time constant
            below 1, or on a current that is not ``[T, B, N]``.

    Source: Zhang & Li 2019 (ST-RSBP), the recurrent layers.

    Example:
        >>> pair = Recurrent(torch.tensor(1.0), weight=torch.full((2, 2), 3.0), leak=1.0, period=0)
        >>> current = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
        >>> pair(current)[0].squeeze(1).tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """

    settings = (*Refractory.settings, "tau")
    tensors = (*Refractory.tensors, "weight", "wiring")
    mixes = True

    def __init__(
        self,
        threshold: Tensor,
        *,
        weight: Tensor,
        tau: float = 1.0,
        wiring: Tensor | None = None,
        leak: Tensor | float = 1 - 1 / 64,
        period: int = 2,
        initial: Tensor | float = 0.0,
        floor: float | None = 0.0,
        ceiling: Tensor | float | None = None,
        firing: Firing | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__(
            threshold,
            leak=leak,
            period=period,
            initial=initial,
            floor=floor,
            ceiling=ceiling,
            firing=firing,
            folded=folded,
        )
        if wiring is None:
            wiring = 1 - torch.eye(len(weight))
        if weight.shape != (len(weight), len(weight)) or wiring.shape != weight.shape:
            raise SpiketuneError(
                f"weights {list(weight.shape)} and wiring {list(wiring.shape)} must both be "
                "[N, N], from each of N neurons to each"
            )
        self.tau = Synapse(tau=tau).tau
        self.weight = nn.Parameter(weight.detach().to(threshold).clone())
        self.register_buffer("wiring", wiring.detach().to(threshold).clone())
        self.wiring: Tensor

    @property
    def macs(self) -> int:
        """One: the trace of the spikes within the layer."""
        return int(self.tau > 1)

    @property
    def own_fan_out(self) -> Tensor:
        """How many weights a spike of each neuron meets within the layer, ``[N]``."""
        return (self.weights() != 0).sum(0)

    def weights(self) -> Tensor:
        """Return ``W [N, N]`` as it acts, zero where nothing is wired."""
        return self.weight * self.wiring

    def start(self, current: Tensor) -> State:
        """Return the state before the first step, no spike sent within the layer yet."""
        if current.shape[2:] != self.weight.shape[:1]:
            raise SpiketuneError(
                f"a recurrent layer of {len(self.weight)} neurons is given a current "
                f"{list(current.shape[2:])} for each image; put a Flatten before its weights"
            )
        state = super().start(current)
        return state._replace(extra=(torch.zeros_like(state.membrane),))

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one step."""
        return self._step(self.weights().T / self.tau, current, state)

    def run(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the current ``[T, B, N]`` and return spikes times threshold and the state."""
        # Under autocast a product of matrices would round what it sums to half precision.
        with torch.autocast(current.device.type, enabled=False):
            return over_time(partial(self._step, self.weights().T / self.tau), current, state)

    def _step(self, weights: Tensor, current: Tensor, state: State) -> tuple[Tensor, State]:
        (trace,) = state.extra
        sent, after = super().step(torch.addmm(current, trace, weights), state)
        return sent, after._replace(extra=(torch.add(sent, trace, alpha=1 - 1 / self.tau),))


def reservoir(
    sides: Sequence[int] = (5, 5, 16),
    *,
    inhibitory: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a random wiring ``[N, N]`` of neurons on a grid, near ones more likely than far ones.

    Neuron ``l`` reaches ``i`` with probability ``1.5 C exp(-d²/4)`` of their distance ``d``, in
    places of the grid; ``C`` is 0.3, 0.2, 0.4, 0.1 for excitatory to excitatory, excitatory to
    inhibitory, the reverse, inhibitory to inhibitory. The kinds decide the wiring alone: weights
    train with either sign.

    Args:
        sides: of the grid; their product is ``N``.
        inhibitory: share of the neurons.
        generator: to draw from; torch's own by default.

    Raises:
        SpiketuneError: on a side below 1, or a share outside 0 to 1.

    Source: Zhang & Li 2019 (ST-RSBP), the reservoirs; connectivity after Maass et al. 2002.

    Example:
        >>> wiring = reservoir((3, 3, 4), generator=torch.Generator().manual_seed(0))
        >>> list(wiring.shape), bool(wiring.diagonal().any()), 0.02 < wiring.mean().item() < 0.2
        ([36, 36], False, True)
    """
    if not sides or min(sides) < 1 or not 0 <= inhibitory <= 1:
        raise SpiketuneError(
            f"a grid of {tuple(sides)} with a share of {inhibitory} inhibitory neurons; sides must "
            "be at least 1, the share from 0 to 1"
        )
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in sides))
    places = places.view(prod(sides), len(sides))
    holds_back = torch.rand(len(places), generator=generator) < inhibitory
    # Rows receive, columns send.
    share = torch.tensor([[0.3, 0.4], [0.2, 0.1]])[holds_back.long()][:, holds_back.long()]
    chance = 1.5 * share * (-torch.cdist(places, places).square() / 4).exp()
    wiring = (torch.rand(chance.shape, generator=generator) < chance).float()
    return wiring.fill_diagonal_(0)


def add_recurrence(
    snn: SpikingNetwork,
    at: int | str,
    *,
    wiring: Tensor | None = None,
    tau: float | None = None,
    scale: float = 1.0,
) -> None:
    """Let the neurons of one layer send spikes to each other, in the network itself.

    Weights are drawn from ``U(-scale, scale)/√n`` with ``n`` connections to a neuron on average.

    Args:
        snn: the network.
        at: which refractory neurons: their name, as ``snn.neurons()`` has it, or their place
            there, from 0.
        wiring: see ``Recurrent``; ``reservoir()`` draws one.
        tau: time constant of the synapses within, in steps; by default that of the one before.
        scale: largest weight times ``√n``, in thresholds.

    Raises:
        SpiketuneError: on another name, other neurons, a wiring that does not fit them, or a scale
            that is not above 0.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,), neuron=st.RefractoryNeuron())
        >>> st.add_synapses(snn, 4.0)
        >>> add_recurrence(snn, 0)
        >>> [type(neuron).__name__ for _, neuron in snn.neurons()]
        ['Recurrent', 'Refractory']
    """
    node, neuron = _at(snn, at)
    shape = snn.shapes()[node][1:]
    if len(shape) != 1 or (wiring is not None and wiring.shape != (*shape, *shape)):
        raise SpiketuneError(
            f"{node.name}: neurons {list(shape)} and wiring "
            f"{'by default' if wiring is None else list(wiring.shape)} do not fit; a recurrent "
            "layer is flat, its wiring [N, N]"
        )
    if not positive(scale):
        raise SpiketuneError(f"{node.name}: scale must be above 0, not {scale!r}")
    tau = tau_before(snn, node) if tau is None else tau
    made = _recurrent(neuron, shape[0], wiring, tau, scale)
    snn.net.set_submodule(str(node.target), made.train(neuron.training))
    snn.refresh()


def _at(snn: SpikingNetwork, at: int | str) -> tuple[Node, Refractory]:
    """Return the node and the refractory neurons of a name or a place."""
    names = [name for name, _ in snn.neurons()]
    wanted = names[at] if isinstance(at, int) and -len(names) <= at < len(names) else at
    fits = {node.name: (node, one) for node, one in snn.neuron_nodes() if type(one) is Refractory}
    if not isinstance(wanted, str) or wanted not in fits:
        raise SpiketuneError(
            f"{at!r} is no layer of refractory neurons; those are "
            f"{', '.join(fits) or 'none: build the network with neuron=RefractoryNeuron()'}"
        )
    node, neuron = fits[wanted]
    assert isinstance(neuron, Refractory)
    return node, neuron


def tau_before(snn: SpikingNetwork, node: Node) -> float:
    """Return the time constant of the synapse before a neuron, 1 where there is none.

    Example:
        >>> import spiketune as st
        >>> snn = st.twin(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 5, (4,))
        >>> st.add_synapses(snn, 4.0)
        >>> [tau_before(snn, node) for node, _ in snn.neuron_nodes()]
        [4.0]
    """
    source = node.all_input_nodes[0]
    unit = snn.net.get_submodule(str(source.target)) if source.op == "call_module" else None
    return unit.tau if isinstance(unit, Synapse) else 1.0


def _recurrent(
    neuron: Refractory, size: int, wiring: Tensor | None, tau: float, scale: float
) -> Recurrent:
    wiring = 1 - torch.eye(size) if wiring is None else wiring
    heard = max(1.0, float(wiring.sum()) / size)
    weight = (2 * torch.rand(size, size) - 1) * scale / heard**0.5
    return Recurrent(
        neuron.threshold,
        weight=weight,
        tau=tau,
        wiring=wiring,
        leak=neuron.leak,
        period=neuron.period,
        initial=neuron.initial,
        floor=neuron.floor,
        ceiling=neuron.ceiling,
        firing=neuron.firing,
        folded=neuron.folded,
    )
