"""Find neurons that a rule could never teach, because they and what drives them start at zero.

A residual block that begins as the identity, as those of ``sew_resnet`` do, ends in a BatchNorm
with ``γ = β = 0`` and neurons behind it: no current, and the membrane a threshold away from firing.
The gradient of ``γ`` and ``β`` is the sum of ``δ[t] = h(-1) g[t]``, times the normalised input for
``γ``. Where ``h(-1) = 0`` both stay zero for ever, and with them all that lies before in the block.
"""

from __future__ import annotations

import torch
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from spiketune.snn import Neuron, SpikingNetwork, TemporalBatchNorm

from .errors import TuneError


def require_teachable(snn: SpikingNetwork, steps: int, *, remedy: str) -> None:
    """Refuse neurons that no gradient passes and whose BatchNorm before them starts at zero.

    Args:
        snn: the network, as the rule has set its slopes.
        steps: the step budget ``T``.
        remedy: what to do, in words, within the rule.

    Raises:
        TuneError: naming the neuron and the remedy.

    Example:
        >>> import spiketune as st
        >>> snn = st.sew_resnet("resnet10t", 10, 2, in_chans=1, image_size=32)
        >>> require_teachable(snn, 2, remedy="")  # none needed: an arc tangent is nowhere zero
    """
    for node, neuron in snn.neuron_nodes():
        if _starts_at_zero(snn, node) and not _passes(neuron, steps):
            raise TuneError(
                f"{node.name}: the BatchNorm before it starts at zero, so its membrane rests a "
                f"threshold below firing, where {_slope(neuron)} is zero, and nothing before it "
                f"would ever learn; {remedy}, or start that BatchNorm elsewhere"
            )


def _starts_at_zero(snn: SpikingNetwork, node: Node) -> bool:
    """Whether a neuron's only current is what a BatchNorm with zero weights that train sends."""
    source = node.args[0]
    assert isinstance(source, Node)
    unit = snn.net.get_submodule(str(source.target)) if source.op == "call_module" else None
    norm = unit.norm if isinstance(unit, TemporalBatchNorm) else unit
    if not isinstance(norm, _BatchNorm) or norm.weight is None or norm.bias is None:
        return False
    trains = norm.weight.requires_grad or norm.bias.requires_grad
    return trains and not bool(norm.weight.any() or norm.bias.any())


def _passes(neuron: Neuron, steps: int) -> bool:
    """Whether a gradient passes through the neuron while no current comes."""
    current = neuron.threshold.new_zeros(steps, 1, *neuron.threshold.shape).requires_grad_()
    with torch.enable_grad():
        spikes, _ = neuron(current)
    (gradient,) = torch.autograd.grad(spikes.sum(), current)
    return bool(gradient.any())


def _slope(neuron: Neuron) -> str:
    if neuron.through is None:
        return str(neuron.firing.surrogate)
    return "the rule's own slope"
