"""LIF neurons that fire at the rates which a network of soft LIF activations was trained for.

Nothing is balanced: the network has learned with the neurons' own curve. Each ``SoftLIF`` of
amplitude ``A`` becomes ``RateLIF`` neurons with its time constants, which send spikes of size
``A/Δ`` in steps of ``Δ`` seconds, and what arrives as spikes is filtered by a synapse,

    ``a[t] = r a[t-1] + (1 - r) x[t]``,   ``r = exp(-Δ/τ_s)``,

so that a neuron sees a rate that wavers rather than single spikes. Of a constant current the mean
over ``T`` steps is within ``A/(T Δ)``, one spike, of the rate ``A r``; a current that wavers makes
a neuron fire at another rate than its mean would, which the noise of ``SoftLIF`` trains it for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from spiketune.snn import RateLIF, Row, SpiketuneError, Synapse
from spiketune.snn.dependencies import Depends, dependencies
from spiketune.snn.ops import ACTIVATIONS
from spiketune.snn.placing import free_name, replace_by_module
from spiketune.snn.rules import operation_name
from spiketune.snn.soft_lif import SOFT_LIF

from .method import Ceiling, Method, register_method
from .thresholds import MSE, Threshold

_IDLE = ("threshold", "per", "drive", "input", "corrections", "equalise")
_REMEDY = "train the network with st.SoftLIF() in its place, or convert with Graded()"


@dataclass(frozen=True, kw_only=True)
class SpikingLIF(Method):
    """Let the neurons of a network trained with ``SoftLIF`` fire.

    Of what all methods have, ``steps``, ``readout`` and ``calibration_images``, on which the
    rewritten graph is checked, are this one's; the others stay at their defaults.

    Attributes:
        dt: ``Δ``, seconds of a step, at most the neurons' ``tau_ref``; ``steps`` of them simulate
            ``T Δ`` seconds.
        synapse: ``τ_s``, in seconds, of the synapses where spikes arrive; None for none.
        initial: membranes at the start, 1 being where they fire. At about 0.7 a neuron is halfway
            to its first spike, which makes short budgets more accurate.

    Raises:
        SpiketuneError: on a step or time constant not above 0, an initial membrane outside [0, 1),
            or a setting of other methods that has no meaning here.

    Source: Hunsberger & Eliasmith 2015 and 2016; the synapse of 5 ms as remembered.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 8), st.SoftLIF(), torch.nn.Linear(8, 3))
        >>> snn = st.to_snn(ann.eval(), torch.rand(9, 4), SpikingLIF(steps=100))
        >>> [type(neuron).__name__ for _, neuron in snn.neurons()]
        ['RateLIF']
    """

    steps: int = 100
    threshold: Threshold = field(default=MSE(), repr=False)
    dt: float = 0.001
    synapse: float | None = 0.005
    initial: float = 0.0

    spikes = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        for own in fields(Method):
            if own.name in _IDLE and getattr(self, own.name) != own.default:
                raise SpiketuneError(
                    f"SpikingLIF deploys neurons as they were trained and has no use for "
                    f"{own.name}; leave it out, or convert with Graded()"
                )
        for name, value in (("dt", self.dt), ("synapse", self.synapse)):
            if value is not None and not 0 < value < float("inf"):
                raise SpiketuneError(f"{name} must be above 0 seconds, not {value}")
        if not 0 <= self.initial < 1:
            raise SpiketuneError(f"initial must lie in [0, 1), not {self.initial}")

    def place(self, net: GraphModule) -> list[Row]:
        """Put ``RateLIF`` neurons in the place of soft LIF activations, and synapses before them.

        Activations that another method would turn into neurons, a curve too fast for the steps, and
        a network without a soft LIF activation become rows that refuse it.
        """
        rows = [
            Row(node.meta["path"], operation_name(node), "refused", _REMEDY)
            for node in net.graph.nodes
            if node.op == "call_function" and node.target in ACTIVATIONS
        ]
        like = next(net.parameters(), torch.empty(()))
        found = net.graph.find_nodes(op="call_function", target=SOFT_LIF)
        for node in found:
            rows.append(self._deploy(net, node, like))
        if self.synapse is not None:
            self._filter(net, self.synapse)
        if not found and not rows:
            rows.append(Row("", "a network without SoftLIF activations", "refused", _REMEDY))
        return rows

    def _deploy(self, net: GraphModule, node: Node, like: Tensor) -> Row:
        """Replace one activation by neurons with its curve, and return the report's row."""
        path = node.meta["path"]
        tau_rc, tau_ref, gamma, amplitude = (float(arg) for arg in node.args[1:])  # type: ignore[arg-type]
        if self.dt > tau_ref:
            note = f"a neuron fires once a step: give dt={tau_ref:g} or less, not {self.dt:g}"
            return Row(path, f"a soft_lif with tau_ref={tau_ref:g}", "refused", note)
        neuron = RateLIF(
            like.new_tensor(amplitude / self.dt),
            dt=self.dt, tau_rc=tau_rc, tau_ref=tau_ref, gamma=gamma, initial=self.initial,
        )  # fmt: skip
        return Row(path, "soft_lif", "neuron", replace_by_module(net, node, "soft_lif", neuron))

    def _filter(self, net: GraphModule, synapse: float) -> None:
        """Put a synapse in front of every neuron at which spikes arrive; the image needs none."""
        tau = 1 / -torch.tensor(-self.dt / synapse, dtype=torch.float64).expm1().item()
        depends = dependencies(net.graph, net)
        for node in net.graph.find_nodes(op="call_module"):
            (source,) = node.all_input_nodes
            neuron = isinstance(net.get_submodule(str(node.target)), RateLIF)
            if not neuron or depends[source] != Depends.TIME:
                continue
            target = free_name(net, f"{node.target}_synapse")
            net.add_submodule(target, Synapse(tau=tau))
            with net.graph.inserting_before(node):
                called = net.graph.call_module(target, (source,))
            called.meta = dict(source.meta)
            node.replace_input_with(source, called)


@register_method(SpikingLIF)
def _neuron(method: SpikingLIF, threshold: Tensor, floor: float | None, ceiling: Ceiling) -> None:
    """Return no neuron: ``place`` has put them all."""
