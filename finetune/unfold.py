"""BatchNorm put back on the input currents of a converted network, and taken away again.

Conversion folds every BatchNorm into the weights, and with it goes what keeps currents, and so
gradients, in range while a deep spiking network trains. ``unfold`` puts one behind every layer
that feeds neurons, with statistics as they are and an affine map that undoes them, so that the
function stays as it was; ``fold_norms`` multiplies them into the weights for inference.

Source: Ledinauskas et al. 2020 (arXiv 2006.04436), BatchNorm on input currents; the measured
identity is ours, and so is leaving out layers that feed no neuron.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from spiketune.snn import Neuron, Row, SpikingNetwork, Temporal, evaluating
from spiketune.snn.network import CHUNK
from spiketune.snn.norms import BATCH_NORMS
from spiketune.snn.ops import MATRIX_PRODUCTS, WEIGHTED, aten
from spiketune.snn.placing import free_name
from spiketune.snn.program import fetch

from .batches import require_images
from .errors import TuneError
from .refold import in_dimension_one, layer_before, renew, report, to_first, to_last
from .rules import require_neurons

_BATCH = 64  # images measured at once


def unfold(snn: SpikingNetwork, images: Tensor, *, steps: int | None = None) -> SpikingNetwork:
    """Return a copy with a BatchNorm behind every layer that feeds neurons; it answers the same.

    ``y = γ (x - μ)/√(σ² + ε) + β`` with ``μ`` and ``σ²`` measured over ``T``, ``B`` and the pixels
    of each channel of the currents that come, ``γ = √(σ² + ε)`` and ``β = μ``: the identity in
    evaluation, up to rounding. In training the statistics are those of the batch, shared by all
    steps; of a current computed once an image, the stem's, those of its one value. A layer's bias
    moves into ``β``.

    Args:
        snn: converted, rate-coded (its image acts at every step), not folded.
        images: ``[N, C, H, W]`` to measure on, from the training set.
        steps: ``T`` to measure at, best that of the training to come; the network's own by default.

    Returns:
        The network with BatchNorm, in evaluation mode; ``fold_norms`` is the way back.

    Raises:
        TuneError: if the image acts for some steps only, if a layer's currents are not led by the
            images or have no channels, or if nothing is left to normalise.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        >>> x = torch.rand(16, 1, 2, 2)
        >>> snn = st.to_snn(ann, x, st.Ternary(steps=8))
        >>> normed = unfold(snn, x)
        >>> torch.allclose(normed(x), snn(x), atol=1e-5)
        True
    """
    require_neurons(snn)
    require_rate_coding(snn, "BatchNorm on input currents")
    require_images(images)
    unfolded = deepcopy(snn).eval()
    net = unfolded.net
    shapes = unfolded.shapes()
    places = [node for node in net.graph.nodes if node.target in WEIGHTED and _feeds(node, net)]
    if not places:
        raise TuneError(
            "no layer without a BatchNorm feeds a neuron, so there is nothing to unfold; "
            "train the network as it is"
        )
    for node in places:
        _require_channels(node, shapes[node])
    watches = {_insert(net, node, watch := _Watch(), shapes[node]): watch for node in places}
    renew(unfolded)
    with torch.no_grad(), evaluating(unfolded):
        for part in torch.split(images, _BATCH):
            # Chunks of one length: those sized to memory would let the watches see a trial run.
            for _ in unfolded.outputs(part, steps or unfolded.steps, chunk=CHUNK):
                pass
    like = next(unfolded.parameters())
    for (target, watch), node in zip(watches.items(), places, strict=True):
        bias = _take_bias(unfolded.net, target)
        norm = _identity(watch, bias, len(shapes[node])).to(like.device, like.dtype)
        unfolded.net.set_submodule(target, norm)
    renew(unfolded)
    paths = [node.meta.get("path", "") for node in places]
    unfolded.about["method"] = f"{snn.about.get('method', '')} + BN on currents".removeprefix(" + ")
    report(unfolded, [Row(p, "batch_norm", "linear", "put on the input currents") for p in paths])
    return unfolded.eval()


def require_rate_coding(snn: SpikingNetwork, what: str) -> None:
    """Refuse a network whose image acts for some steps only.

    Raises:
        TuneError: naming how the network was made.
    """
    if snn.drive is not None:
        made = snn.about.get("method", "a method of yours")
        raise TuneError(
            f"{what} needs an image that acts at every step, but in this network (made by {made}) "
            f"it acts during the first {snn.drive}; convert with a rate-coded method such as "
            "Ternary()"
        )


class _Watch(nn.Module):
    """Take mean and variance of all that passes, channel by channel (Chan et al. 1979)."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        values = x.double().movedim(1, 0).flatten(1)
        var, mean = torch.var_mean(values, dim=1, correction=0)
        count = values.shape[1]
        total, step = self.count + count, mean - self.mean.to(mean)
        between = step.square() * (self.count * count / total)
        self.squares = self.squares.to(mean) + var * count + between
        self.mean = self.mean.to(mean) + step * (count / total)
        self.count = total
        return x

    @property
    def var(self) -> Tensor:
        """``σ²`` of all values, divided by their number."""
        return self.squares / self.count


def _identity(watch: _Watch, bias: Tensor | None, dims: int) -> _BatchNorm:
    """Return the BatchNorm that changes nothing; its layer has lost ``bias``."""
    norm = BATCH_NORMS[dims](len(watch.mean)).to(watch.mean.device, torch.float64)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(watch.mean if bias is None else watch.mean - bias.double())
        norm.running_var.copy_(watch.var)
        norm.weight.copy_((watch.var + norm.eps).sqrt())
        norm.bias.copy_(watch.mean)
    return norm


def _feeds(node: Node, net: GraphModule) -> bool:
    """Whether a neuron sees a value with no weight, neuron or BatchNorm between."""
    for user in node.users:
        unit = net.get_submodule(str(user.target)) if user.op == "call_module" else None
        if isinstance(unit, Neuron):
            return True
        ends = isinstance(unit, Temporal | _BatchNorm)
        weighs = user.target in WEIGHTED or user.target in MATRIX_PRODUCTS
        if not ends and not weighs and _feeds(user, net):
            return True
    return False


def _require_channels(node: Node, shape: object) -> None:
    assert isinstance(shape, tuple)
    if len(shape) not in BATCH_NORMS or node.meta.get("batch", "lead") != "lead":
        raise TuneError(
            f"{node.meta.get('path') or node.name}: its currents of shape {list(shape)} have no "
            "channels behind the images, so BatchNorm cannot be put on them; train the network "
            "without unfold"
        )


def _insert(net: GraphModule, node: Node, unit: nn.Module, shape: tuple[int, ...]) -> str:
    """Let everything behind ``node`` see it through ``unit``; return where the unit lies.

    The channels of a linear layer come last; they are put in dimension 1 and back again.
    """
    path = node.meta.get("path", "")
    target = free_name(net, f"{path}.norm" if path else "norm")
    net.add_submodule(target, unit)
    users, last = list(node.users), node
    orders = [] if in_dimension_one(node, shape) else [to_first(len(shape)), to_last(len(shape))]
    with net.graph.inserting_before(node.next):
        for order in orders[:1]:
            last = _turn(net, last, order)
        last = net.graph.call_module(target, (last,))
        last.meta = dict(node.meta)
        for order in orders[1:]:
            last = _turn(net, last, order)
    for user in users:
        user.replace_input_with(node, last)
    return target


def _turn(net: GraphModule, node: Node, order: list[int]) -> Node:
    turned = net.graph.call_function(aten.permute.default, (node, order))
    turned.meta = dict(node.meta)
    return turned


def _take_bias(net: GraphModule, target: str) -> Tensor | None:
    """Remove the bias of the layer before the module at ``target`` and return it."""
    (called,) = net.graph.find_nodes(op="call_module", target=target)
    layer = layer_before(called)
    place = WEIGHTED[layer.target][1]
    holder = layer.args[place] if len(layer.args) > place else None
    # One that is computed, or computed with, stays; the measured mean holds it anyway.
    if not isinstance(holder, Node) or holder.op != "get_attr":
        return None
    layer.update_arg(place, None)
    return fetch(net, holder).detach()
