"""BatchNorm on input currents multiplied into the weights, so that inference need not pay for it.

In evaluation a BatchNorm is the map ``y = a x + c`` of each channel, and a layer before it can do
that by itself. Source: the folding of Rueckauer et al. 2017, section 2.2.3, on spiking networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from spiketune.snn import Report, Row, SpikingNetwork
from spiketune.snn.norms import TemporalBatchNorm, scale_and_shift
from spiketune.snn.ops import CONVOLUTIONS, WEIGHTED, aten
from spiketune.snn.placing import existing, free_name
from spiketune.snn.program import fetch

from .errors import TuneError


def fold_norms(snn: SpikingNetwork) -> SpikingNetwork:
    """Return a copy with every BatchNorm behind a layer multiplied into its weights.

    ``W' = a W``, ``b' = a b + c`` for the ``y = a x + c`` that a BatchNorm computes in evaluation,
    so inference costs what it did before ``unfold``. One that follows anything else, or a layer
    that feeds others too, stays.

    Args:
        snn: unfolded, or trained directly with ``SharedBN()`` or ``TDBN()``.

    Returns:
        The network in evaluation mode; its answers are the same, up to rounding.

    Raises:
        TuneError: on a TEBN, whose factors differ from step to step as no weight can.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> x = torch.rand(2, 1, 32, 32)
        >>> folded = fold_norms(snn)
        >>> torch.allclose(folded(x), snn.eval()(x), atol=1e-4), len(list(norms(folded)))
        (True, 0)
    """
    folded = deepcopy(snn).eval()
    net, shapes = folded.net, folded.shapes()
    rows = []
    for node, norm in list(norms(folded)):
        if isinstance(norm, TemporalBatchNorm):
            raise TuneError(
                f"{node.target}: a TEBN has a factor for each step, which no weight can hold; "
                "run the network as it is, or train with SharedBN() or TDBN()"
            )
        layer, behind = layer_before(node), _behind(node)
        if not (behind and _foldable(layer, shapes.get(layer), turned=behind is not node)):
            continue
        _multiply(net, layer, *scale_and_shift(norm))
        behind.replace_all_uses_with(layer)
        for done in dict.fromkeys((behind, node)):
            net.graph.erase_node(done)
        path = node.meta.get("path", "")
        rows.append(Row(path, "batch_norm", "folded", "into the layer before"))
    renew(folded)
    report(folded, rows)
    return folded


def norms(snn: SpikingNetwork) -> Iterator[tuple[Node, _BatchNorm | TemporalBatchNorm]]:
    """Yield each node that calls a BatchNorm, of whatever kind, and the BatchNorm.

    Example:
        >>> import spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> next(norms(snn))[0].target
        'conv1.1.norm'
    """
    for node in snn.net.graph.find_nodes(op="call_module"):
        unit = snn.net.get_submodule(node.target)
        if isinstance(unit, _BatchNorm | TemporalBatchNorm):
            yield node, unit


def to_first(dims: int) -> list[int]:
    """Return the order of dimensions that moves the last one behind the images.

    Example:
        >>> to_first(4), to_last(4)
        ([0, 3, 1, 2], [0, 2, 3, 1])
    """
    return [0, dims - 1, *range(1, dims - 1)]


def to_last(dims: int) -> list[int]:
    """Return the order of dimensions that undoes ``to_first``."""
    return [0, *range(2, dims), 1]


def in_dimension_one(layer: Node, shape: object) -> bool:
    """Whether the channels of a layer's currents are where a BatchNorm looks for them."""
    flat = isinstance(shape, tuple) and len(shape) == 2
    return flat or layer.target is not aten.linear.default


def layer_before(norm: Node) -> Node:
    """Return what a BatchNorm normalises, before its channels were put in dimension 1."""
    source = norm.args[0]
    assert isinstance(source, Node)
    before = source.args[0] if _turns(source, to_first) else source
    assert isinstance(before, Node)
    return before


def _behind(norm: Node) -> Node | None:
    """Return where the channels are back in their place behind a BatchNorm, None if nowhere."""
    if layer_before(norm) is norm.args[0]:
        return norm
    alone = len(norm.users) == 1 and len(norm.all_input_nodes[0].users) == 1
    last = next(iter(norm.users), norm)
    return last if alone and _turns(last, to_last) else None


def _turns(node: Node, to: Callable[[int], list[int]]) -> bool:
    """Whether a node moves channels from last to first, or back."""
    if node.target is not aten.permute.default:
        return False
    order = node.args[1]
    return isinstance(order, list | tuple) and list(order) == to(len(order))


def _foldable(layer: Node, shape: object, *, turned: bool) -> bool:
    """Whether a BatchNorm behind a node can be multiplied into weights of that node's own."""
    if layer.target not in WEIGHTED or len(layer.users) > 1:
        return False
    if in_dimension_one(layer, shape) is turned:
        return False  # it normalises another dimension than the layer's channels
    holders = [layer.args[place] for place in WEIGHTED[layer.target] if place < len(layer.args)]
    return all(holder is None or _is_held(holder) for holder in holders)


def _is_held(holder: object) -> bool:
    return isinstance(holder, Node) and holder.op == "get_attr"


def _multiply(net: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> None:
    """Give a layer weights scaled by ``scale [C]`` and a bias moved by ``shift [C]``."""
    at_weight, at_bias = WEIGHTED[layer.target]
    args = [*layer.args, *[None] * (at_bias + 1 - len(layer.args))]
    holder, old = args[at_weight], args[at_bias]
    assert isinstance(holder, Node)
    weight = fetch(net, holder).detach()
    bias = fetch(net, old).detach().double() if isinstance(old, Node) else torch.zeros_like(shift)
    new = _scaled_outputs(layer, weight.double(), scale).to(weight.dtype)
    path = str(holder.target).rpartition(".")[0]
    args[at_weight] = _hold(net, layer, holder, "", new)
    bias_path = f"{path}.bias" if path else "bias"
    args[at_bias] = _hold(net, layer, old, bias_path, (bias * scale + shift).to(weight.dtype))
    layer.args = tuple(args)


def _scaled_outputs(layer: Node, weight: Tensor, scale: Tensor) -> Tensor:
    if layer.target in CONVOLUTIONS or layer.target is aten.linear.default:
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    # Transposed: [in, out/groups, ...], and the inputs of a group lie together.
    groups = int(layer.args[6]) if len(layer.args) > 6 else 1  # type: ignore[arg-type]
    by_group = weight.view(groups, -1, *weight.shape[1:])
    factor = scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (by_group * factor).view_as(weight)


def _hold(net: GraphModule, layer: Node, holder: object, path: str, value: Tensor) -> Node:
    """Put a value in the place of a held one; beside it, or at ``path``, where it must stay."""
    learned = True
    if isinstance(holder, Node):
        old = fetch(net, holder)
        learned, path = old.requires_grad, str(holder.target)
        calls = [user for node in net.graph.find_nodes(op="get_attr") if node.target == path
                 for user in node.users]  # fmt: skip
        if calls == [layer]:
            old.data = value
            return holder
    owner = path.rpartition(".")[0]
    if owner:
        net.add_submodule(owner, existing(net, owner))
    target = free_name(net, path)
    parent, _, leaf = target.rpartition(".")
    parameter = nn.Parameter(value, requires_grad=learned)
    net.get_submodule(parent).register_parameter(leaf, parameter)
    with net.graph.inserting_before(layer):
        return net.graph.get_attr(target)


def renew(snn: SpikingNetwork) -> None:
    """Let the network run its changed graph; what that no longer uses is gone."""
    snn.net.graph.eliminate_dead_code()
    snn.net = GraphModule(snn.net, snn.net.graph)
    snn.refresh()


def report(snn: SpikingNetwork, rows: list[Row]) -> None:
    """Add rows to the report of a network."""
    snn.report = Report((*snn.report.rows, *rows))
