"""What the rules for leaky neurons share: which neurons they train, and how a leak comes in."""

from __future__ import annotations

from spiketune.snn import IF, LIF, SpikingNetwork

from .errors import TuneError


def require_integrating(snn: SpikingNetwork, rule: str) -> None:
    """Refuse a network with neurons whose spikes depend on more than the membrane.

    Raises:
        TuneError: naming the neuron, its kind and the remedy.
    """
    for name, neuron in snn.neurons():
        # Not isinstance: a subclass may step in another way.
        if type(neuron) not in (IF, LIF):
            raise TuneError(
                f"{name}: {rule} trains IF and LIF neurons, not {type(neuron).__name__}; convert "
                "with Binary(), build it with neuron=PlainNeuron() or LeakyNeuron(), or tune with "
                "SurrogateBPTT()"
            )


def make_leaky(snn: SpikingNetwork) -> None:
    """Put a LIF neuron with a leak of 1 in the place of each IF neuron, in the network itself.

    ``v = 1 · v + c``: no answer changes. Neurons that leak already stay as they are.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(64, 4), st.Binary())
        >>> make_leaky(snn)
        >>> [type(neuron).__name__ for _, neuron in snn.neurons()]
        ['LIF']
    """
    for node, neuron in snn.neuron_nodes():
        if type(neuron) is IF:
            leaky = LIF(
                neuron.threshold,
                leak=1.0,
                initial=neuron.initial,
                floor=neuron.floor,
                ceiling=neuron.ceiling,
                firing=neuron.firing,
                folded=neuron.folded,
            )
            leaky.threshold.requires_grad_(neuron.threshold.requires_grad)
            snn.net.set_submodule(str(node.target), leaky.train(neuron.training))
    snn.refresh()
