"""Even out the ranges of a layer's channels before its thresholds are balanced.

A ReLU does not mind scale: ``relu(s z) = s relu(z)`` for ``s > 0``. So the weights in front of a
neuron may be divided by ``s_c`` a channel, and those behind it multiplied, without changing what
the network computes. With ``s_c`` the channel's own range, every channel of the layer then spans
the same range, and one threshold for the whole layer serves them as well as one each would.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from spiketune.snn import Row, SpikingNetwork
from spiketune.snn.folding import scaled_inputs
from spiketune.snn.ops import CONVOLUTIONS, aten
from spiketune.snn.program import fetch

from .calibration import Calibration
from .places import Place

_LAYERS = {*CONVOLUTIONS, aten.linear.default}


def equalise_ranges(calibration: Calibration) -> list[Row]:
    """Scale weights so that each channel's largest activation is the mean of its layer's.

    ``W_c <- W_c / s_c``, ``b_c <- b_c / s_c``; behind the neuron ``W_{:,c} <- W_{:,c} s_c``; a
    ReLU6's ceiling becomes ``6 / s_c``. Layers whose neuron feeds anything but weights, or whose
    weights are shared, are left as they are.

    Args:
        calibration: the network with its drafts in place, and the images; one pass over them.

    Returns:
        A row of the report for each layer that was scaled.

    Source: Nagel et al. 2019, "Data-free quantization", section 4.1, on activations' ranges.

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, groups=4))
        >>> x = torch.rand(8, 1, 8, 8)
        >>> snn = st.to_snn(ann, x, st.Binary(per="layer", equalise=True))
        >>> torch.allclose(snn.ann(x), ann(x), atol=1e-5)
        True
    """
    snn = calibration.snn
    maxima = calibration.maxima()
    rows = []
    for name, place in calibration.places.items():
        layer, top = place.node.args[0], maxima.get(name)
        if top is None or not isinstance(layer, Node) or not _may_scale(snn, layer, place):
            continue
        active = top > 0
        scale = torch.where(active, top / top[active].mean(), 1.0) if bool(active.any()) else top
        if bool(active.any()):
            _scale(snn, layer, place, scale)
            rows.append(Row(place.node.meta["path"], "ranges", "linear", "evened out"))
    snn.net.recompile()
    snn.refresh()
    return rows


def _may_scale(snn: SpikingNetwork, layer: Node, place: Place) -> bool:
    """Whether both sides of a neuron are weights of its own."""
    if layer.target not in _LAYERS or len(layer.users) > 1 or place.neuron.floor != 0.0:
        return False
    users = list(place.node.users)
    behind = all(
        user.target in _LAYERS and user.args[0] is place.node and _own(user) for user in users
    )
    # Where the weights in front have their outputs, so that a scale a channel is one a row.
    rows = {1} if layer.target in CONVOLUTIONS else {-1, len(place.node.meta["shape"]) - 1}
    return bool(users) and behind and _own(layer) and place.axis in rows


def _own(layer: Node) -> bool:
    """Whether a layer's weight and bias are parameters that no other layer shares."""
    held = [arg for arg in layer.args[1:3] if arg is not None]
    uses = layer.graph.find_nodes(op="get_attr")
    return all(
        isinstance(arg, Node)
        and arg.op == "get_attr"
        and sum(len(n.users) for n in uses if n.target == arg.target) == 1
        for arg in held
    )


def _scale(snn: SpikingNetwork, layer: Node, place: Place, scale: Tensor) -> None:
    for position in (1, 2):
        holder = layer.args[position] if len(layer.args) > position else None
        if isinstance(holder, Node):
            value = fetch(snn.net, holder)
            value.data.div_(scale.view(-1, *[1] * (value.dim() - 1)))
    ceiling = place.neuron.ceiling
    if ceiling is not None:
        top = torch.as_tensor(ceiling, dtype=scale.dtype, device=scale.device)
        place.neuron.set_ceiling(top / place.shaped(scale))
    for user in place.node.users:
        weight = fetch(snn.net, user.args[1])  # type: ignore[arg-type]
        weight.data.copy_(scaled_inputs(user, weight.detach(), scale))
