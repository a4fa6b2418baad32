"""The synapse that filters what arrives: a spike acts over several steps, not in one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .dynamics import State
from .errors import SpiketuneError
from .filters import low_pass
from .network import SpikingNetwork
from .neurons import Neuron, Temporal
from .placing import free_name
from .units import register_unit


@register_unit
class Synapse(Temporal):
    """First-order low-pass filter ``a[t] = r a[t-1] + x[t]/τ`` with ``r = 1 - 1/τ``; ``a[0] = 0``.

    A spike arrives as ``(1/τ) rⁿ`` after ``n`` steps, in all as 1, so that a constant value is what
    it was in the end. The filter is linear and the same everywhere: it may stand before or behind
    weights and pooling. Behind them, in front of the neuron, weights see spikes and what depends
    on the image alone is computed once.

    Args:
        tau: ``τ >= 1``, time constant in steps; 1 passes everything on as it is.
        delayed: send ``a[t-1]`` in the place of ``a[t]``: a spike acts one step later.

    Raises:
        SpiketuneError: on a time constant below 1.

    Source: Zhang & Li 2020 (TSSL-BP), eq. 2; Yang, Zhang & Li 2021 (NA); delayed in Zhang & Li 2019
    (ST-RSBP).

    Example:
        >>> filtered, _ = Synapse(tau=2.0)(torch.tensor([[1.0], [0.0], [1.0]]))
        >>> filtered.flatten().tolist()
        [0.5, 0.25, 0.625]
    """

    settings = ("tau", "delayed")

    def __init__(self, *, tau: float, delayed: bool = False) -> None:
        super().__init__()
        if not isinstance(tau, int | float) or not 1 <= tau < float("inf"):
            raise SpiketuneError(f"tau must be at least 1 step, not {tau}; 1 does not filter")
        self.tau, self.delayed = tau, delayed

    @property
    def decay(self) -> float:
        """Return ``r = 1 - 1/τ``, what is left of an arrival a step later."""
        return 1 - 1 / self.tau

    @property
    def macs(self) -> int:
        """One: a trace that decays, as a leaky neuron's membrane does besides."""
        return int(self.tau > 1)

    def ann(self, x: Tensor) -> Tensor:
        """Return the value as it is."""
        return x

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filter ``x [T, B, ...]``; sums are kept in single precision or better."""
        now = x.to(torch.promote_types(x.dtype, torch.float32))
        level = torch.zeros_like(now[0]) if state is None else state.membrane
        sent, level = low_pass(now, self.tau, level, delayed=self.delayed)
        return sent, State(level)

    def extra_repr(self) -> str:
        """Say the time constant."""
        return f"tau={self.tau}" + ", delayed" * self.delayed


def add_synapses(
    snn: SpikingNetwork, tau: float, *, output: bool = False, delayed: bool = False
) -> None:
    """Put a synapse in front of every neuron, in the network itself.

    Args:
        snn: the network.
        tau: ``τ``, time constant in steps.
        output: filter the answer too, for a network that ends in neurons.
        delayed: let each of them act a step later.

    Raises:
        SpiketuneError: on a time constant below 1, a network without neurons of steps or with
            synapses already, or one that answers with several tensors where the answer is to be
            filtered.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,))
        >>> add_synapses(snn, 2.0, output=True)
        >>> sum(isinstance(unit, Synapse) for unit in snn.modules())
        3
    """
    Synapse(tau=tau, delayed=delayed)  # a bad constant is to leave the network as it was
    (answer,) = snn.net.graph.find_nodes(op="output")
    if output and not isinstance(answer.args[0], Node):
        raise SpiketuneError(
            "the network answers with several tensors; wrap it to return one, or filter none"
        )
    if any(isinstance(unit, Synapse) for unit in snn.net.modules()):
        raise SpiketuneError("the network has synapses already; build it anew for others")
    if not any(True for _ in snn.neuron_nodes()):
        raise SpiketuneError(
            "the network has no neurons that run in steps, to put a synapse before"
        )
    ends = [answer] if output else []
    for user in [node for node, _ in snn.neuron_nodes()] + ends:
        _put_before(snn.net, user, Synapse(tau=tau, delayed=delayed).train(snn.training))
    snn.net = GraphModule(snn.net, snn.net.graph)
    snn.refresh()


def _put_before(net: GraphModule, user: Node, synapse: Synapse) -> None:
    source = user.args[0]
    assert isinstance(source, Node)
    path = str(source.meta.get("path", ""))
    target = free_name(net, f"{path}.synapse" if path else "synapse")
    net.add_submodule(target, synapse)
    with net.graph.inserting_before(user):
        called = net.graph.call_module(target, (source,))
    called.meta = dict(source.meta)
    user.replace_input_with(source, called)


def decay_behind(snn: SpikingNetwork, neuron: Node) -> float:
    """Return ``r`` of the synapses that a neuron's spikes arrive at, 0 where there are none.

    Raises:
        SpiketuneError: naming the neuron, if they arrive at synapses of several time constants.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(),
        ...                           torch.nn.Linear(8, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,))
        >>> add_synapses(snn, 2.0)
        >>> [decay_behind(snn, node) for node, _ in snn.neuron_nodes()]
        [0.5, 0.0]
    """
    found: set[float] = set()
    ahead, seen = list(neuron.users), set[Node]()
    while ahead:
        node = ahead.pop()
        unit = snn.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(unit, Synapse):
            found.add(unit.decay)
        elif node.op == "output" or isinstance(unit, Neuron):
            found.add(0.0)
        elif node not in seen:
            seen.add(node)
            ahead += node.users
    if len(found) > 1:
        raise SpiketuneError(
            f"{neuron.name}: its spikes arrive through synapses of several time constants "
            f"(r = {', '.join(f'{decay:g}' for decay in sorted(found))}); give them one"
        )
    return found.pop() if found else 0.0
