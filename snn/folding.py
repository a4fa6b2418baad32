"""Move every threshold into the weights that follow: the form that hardware and counters want.

While simulating, spikes leave a neuron as ``θ s`` and every layer keeps the ANN's weights. Folded,
the neuron emits ``s`` in {-1, 0, 1} and the next weights are ``W' = W θ`` over their input
channels (Rueckauer et al. 2017, section 2.2.2, read the other way round). Where the next thing is
not a weight but a sum, ``θ`` stands as an explicit scale on that branch: a 1x1 synapse.
"""

from __future__ import annotations

from copy import deepcopy
from math import prod

from torch import Tensor, nn
from torch.fx import Node

from .network import SpikingNetwork
from .ops import CONVOLUTIONS, POOLING, RESHAPES, aten
from .program import fetch


def fold(snn: SpikingNetwork) -> SpikingNetwork:
    """Return a copy of the network whose neurons emit bare spikes; its answers are the same.

    Example:
        >>> import spiketune as st, torch
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> x = torch.rand(16, 1, 2, 2)
        >>> snn = st.to_snn(ann, x, st.Ternary(steps=8))
        >>> torch.allclose(fold(snn)(x), snn(x), atol=1e-5)
        True
    """
    folded = deepcopy(snn)
    folder = _Folder(folded)
    for node, unit in folded.neuron_nodes():
        if not (unit.folded or unit.bare):
            folder.push(node, unit.threshold.detach())
    for _, unit in folded.neuron_nodes():
        unit.folded = True
    folded.net.graph.lint()
    folded.net.recompile()
    folded.refresh()
    return folded


class _Folder:
    """Pushes the scale of one neuron after another along the graph until weights take it up.

    A scale is ``[C]`` along the channels (dimension 1), or, for single neurons, any shape that
    broadcasts to a sample; the latter is never pushed, only inserted.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        self.net = snn.net
        self.shapes = snn.shapes()

    def push(self, node: Node, scale: Tensor) -> None:
        """Make every user of ``node`` (now short of ``scale``) come out as before."""
        sample = self.shapes[node][1:]
        channels = scale.expand(sample).reshape(sample[0], -1)
        uniform = bool((channels == channels[:, :1]).all())
        for user in list(node.users):
            last = scale.expand(sample).reshape(-1, sample[-1])
            if self._weigh_last(user, node, last):
                continue
            if not uniform:
                self._insert(user, node, scale)
            elif not self._weigh(user, node, channels[:, 0]):
                self._push_through(user, node, channels[:, 0])

    def _push_through(self, user: Node, node: Node, scale: Tensor) -> None:
        """Go on behind a pooling or flattening user; where neither, scale explicitly."""
        before, after = self.shapes[node], self.shapes.get(user, ())
        alone = len(user.all_input_nodes) == 1 or user.target in RESHAPES
        pooled = user.target in POOLING and after[1:2] == before[1:2]
        reduces = (aten.mean.dim, aten.sum.dim_IntList)
        if user.target in reduces and {1, 1 - len(before)} & set(user.args[1] or ()):  # type: ignore[arg-type]
            pooled = False  # an average over the channels mixes their scales
        flattened = user.target in RESHAPES and after == (before[0], prod(before[1:]))
        if alone and pooled:
            self.push(user, scale.view(-1, *[1] * (len(after) - 2)))
        elif alone and flattened:
            self.push(user, scale.repeat_interleave(prod(before[2:])))
        else:
            self._insert(user, node, scale.view(-1, *[1] * (len(before) - 2)))

    def _weigh_last(self, user: Node, node: Node, last: Tensor) -> bool:
        """Fold a scale along the last dimension into a linear layer; False where it cannot be."""
        if user.target is not aten.linear.default or user.args[0] is not node:
            return False
        holder = user.args[1]
        assert isinstance(holder, Node)
        if holder.op != "get_attr" or not bool((last == last[:1]).all()):
            return False
        weight = fetch(self.net, holder).detach()
        with self.net.graph.inserting_before(user):
            user.update_arg(1, self._parameter(f"{user.name}_folded", weight * last[0]))
        return True

    def _weigh(self, user: Node, node: Node, scale: Tensor) -> bool:
        """Fold ``scale [C]`` into a convolution; False where it cannot be."""
        holder = user.args[1] if len(user.args) > 1 else None
        if not isinstance(holder, Node) or holder.op != "get_attr" or user.args[0] is not node:
            return False
        if user.target not in CONVOLUTIONS:
            return False
        new = scaled_inputs(user, fetch(self.net, holder).detach(), scale)
        with self.net.graph.inserting_before(user):
            user.update_arg(1, self._parameter(f"{user.name}_folded", new))
        return True

    def _insert(self, user: Node, node: Node, scale: Tensor) -> None:
        with self.net.graph.inserting_before(user):
            factor = self._parameter(f"{node.name}_scale", scale)
            scaled = self.net.graph.call_function(aten.mul.Tensor, (node, factor))
            scaled.meta = dict(node.meta)
        user.replace_input_with(node, scaled)

    def _parameter(self, name: str, value: Tensor) -> Node:
        while hasattr(self.net, name):
            name += "_"
        self.net.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))
        return self.net.graph.get_attr(name)


def scaled_inputs(layer: Node, weight: Tensor, scale: Tensor) -> Tensor:
    """Return the weight of a convolution or linear layer times ``scale [C]`` over its inputs.

    Example:
        >>> import torch
        >>> from torch.fx import Graph
        >>> layer = Graph().call_function(aten.linear.default, (None, None))
        >>> scaled_inputs(layer, torch.ones(1, 2), torch.tensor([2.0, 3.0])).tolist()
        [[2.0, 3.0]]
    """
    if layer.target not in CONVOLUTIONS:
        return weight * scale
    groups = int(layer.args[6]) if len(layer.args) > 6 else 1  # type: ignore[arg-type]
    by_group = weight.view(groups, -1, *weight.shape[1:])
    factor = scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (by_group * factor).view_as(weight)
