"""Rewrite the graph of an ANN until only linear operations and neurons are left in it.

Each pass does one thing, leaves the function computed unchanged (``Program.ann`` of the result
equals the network) and returns the rows that it adds to the report.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from spiketune.snn import Row
from spiketune.snn.dependencies import Depends, dependencies
from spiketune.snn.ops import ACTIVATIONS, CONVOLUTIONS, aten
from spiketune.snn.placing import existing, free_name
from spiketune.snn.program import fetch
from spiketune.snn.reading import BATCH_NORM, has_statistics
from spiketune.snn.soft_lif import SOFT_LIF


def fold_constants(net: GraphModule) -> None:
    """Compute once what depends on parameters only, such as standardised weights.

    What no parameter went into, such as a mask, becomes a buffer, for no training may change it.
    """
    depends = dependencies(net.graph, net)
    values: dict[Node, Any] = {}
    learned: dict[Node, bool] = {}
    for node in list(net.graph.nodes):
        if depends[node] != Depends.PARAMETERS or node.op == "output":
            continue
        if node.op == "get_attr":
            values[node] = _tensor(net, node)
            learned[node] = isinstance(fetch(net, node), nn.Parameter)
            continue
        learned[node] = any(learned[n] for n in node.all_input_nodes)
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n])
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)
        outside = [user for user in node.users if depends[user] != Depends.PARAMETERS]
        if outside and isinstance(values[node], Tensor):
            with net.graph.inserting_before(node):
                name = free_name(net, f"{node.name}_constant")
                constant = _parameter(net, name, values[node], learned=learned[node])
            for user in outside:
                user.replace_input_with(node, constant)
    net.graph.eliminate_dead_code()


def fold_batch_norms(net: GraphModule) -> list[Row]:
    """Fold ``batch_norm`` into the layer before it, or leave it as a scale and a shift.

    ``W' = W g/√(var + ε)``, ``b' = (b - mean) g/√(var + ε) + β``. After anything but a
    convolution or linear layer that feeds nothing else, the same map stays explicit; it is
    linear, so it is exact on rates too.
    """
    rows = []
    for node in net.graph.find_nodes(op="call_function", target=BATCH_NORM):
        if not has_statistics(node):
            continue  # refused by name
        scale, shift = _affine(net, node)
        source = node.args[0]
        flat = source.target is aten.linear.default and len(node.meta["shape"]) == 2
        foldable = source.target in CONVOLUTIONS or flat
        if foldable and len(source.users) == 1 and source.args[1].op == "get_attr":
            _fold_into(net, source, scale, shift)
            node.replace_all_uses_with(source)
            rows.append(Row(node.meta["path"], "batch_norm", "folded", "into the layer before"))
        else:
            _make_explicit(net, node, scale, shift)
            rows.append(Row(node.meta["path"], "batch_norm", "linear", "a scale and a shift"))
        net.graph.erase_node(node)
    return rows


def _affine(net: GraphModule, node: Node) -> tuple[Tensor, Tensor]:
    gain, offset, mean, var = (None if arg is None else _tensor(net, arg) for arg in node.args[1:5])
    assert mean is not None and var is not None
    eps = node.args[7]
    # In double: the statistics of a trained layer span many orders of magnitude.
    scale = torch.rsqrt(var.double() + float(eps))  # type: ignore[arg-type]
    scale = scale if gain is None else scale * gain.double()
    shift = -mean.double() * scale
    shift = shift if offset is None else shift + offset.double()
    return scale, shift


def _tensor(net: GraphModule, node: object) -> Tensor:
    assert isinstance(node, Node)
    return fetch(net, node).detach()


def _fold_into(net: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> None:
    holder = layer.args[1]
    assert isinstance(holder, Node)
    weight = _tensor(net, holder)
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    bias = 0 if bias_node is None else _tensor(net, bias_node).double()
    new_weight = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    path = str(holder.target).rpartition(".")[0]
    with net.graph.inserting_before(layer):
        new = _parameter(net, f"{path}.weight", new_weight.to(weight.dtype), holder)
        new_bias = _parameter(net, f"{path}.bias", (bias * scale + shift).to(weight.dtype))
    args = list(layer.args) + [None] * (3 - len(layer.args))
    args[1:3] = [new, new_bias]
    layer.args = tuple(args)


def _make_explicit(net: GraphModule, node: Node, scale: Tensor, shift: Tensor) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    dtype = _tensor(net, node.args[3]).dtype
    shape = (-1, *[1] * (len(node.meta["shape"]) - 2))
    path = node.meta["path"]
    with net.graph.inserting_before(node):
        factor = _parameter(net, f"{path}.scale", scale.view(shape).to(dtype))
        offset = _parameter(net, f"{path}.shift", shift.view(shape).to(dtype))
        scaled = net.graph.call_function(aten.mul.Tensor, (source, factor))
        shifted = net.graph.call_function(aten.add.Tensor, (scaled, offset))
    scaled.meta, shifted.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(shifted)


def _parameter(
    net: GraphModule, path: str, value: Tensor, old: Node | None = None, *, learned: bool = True
) -> Node:
    """Attach a parameter under ``path``, or beside it where another call still needs that one."""
    owner, _, leaf = path.rpartition(".")
    if owner:
        net.add_submodule(owner, existing(net, owner))
    holder = net.get_submodule(owner)
    sole = old is not None and len(old.users) == 1 and old.target == path
    while hasattr(holder, leaf) and getattr(holder, leaf) is not None and not sole:
        leaf += "_"
    if sole:
        delattr(holder, leaf)
    if learned and value.is_floating_point():
        holder.register_parameter(leaf, nn.Parameter(value.clone()))
    else:  # indices, masks
        holder.register_buffer(leaf, value.clone())
    return net.graph.get_attr(f"{owner}.{leaf}" if owner else leaf)


def move_max_pools(net: GraphModule) -> list[Row]:
    """Move each max-pool from behind an activation to before it.

    ``max_j f(z_j) = f(max_j z_j)`` for every monotone ``f``; spikes of one step, on the other
    hand, must never be pooled by their maximum.
    """
    rows = []
    moved = True
    while moved:  # a pool behind a pool behind an activation moves in two rounds
        moved = False
        for pool in net.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
            act = pool.args[0]
            if act.target not in ACTIVATIONS and act.target is not SOFT_LIF:
                continue
            with net.graph.inserting_after(pool):
                first = net.graph.call_function(pool.target, (act.args[0], *pool.args[1:]))
            with net.graph.inserting_after(first):
                then = net.graph.call_function(act.target, (first, *act.args[1:]), act.kwargs)
            first.meta, then.meta = dict(pool.meta), {**act.meta, "shape": pool.meta["shape"]}
            pool.replace_all_uses_with(then)
            net.graph.erase_node(pool)
            rows.append(Row(first.meta["path"], "max_pool2d", "moved", "before the neuron"))
            moved = True
    net.graph.eliminate_dead_code()
    return rows


def split_attention(net: GraphModule) -> list[Row]:
    """Write fused attention out as its two matrix products, so that spikes can reach them.

    ``softmax(q k' / √d + mask) v``; Vaswani et al. 2017, eq. 1.
    """
    rows = []
    fused = aten.scaled_dot_product_attention.default
    for node in net.graph.find_nodes(op="call_function", target=fused):
        given = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False))
        given |= node.kwargs
        mask, scale = given.get("attn_mask"), given.get("scale")
        if given.get("is_causal") or given.get("enable_gqa") or _boolean(mask):
            continue  # stays one function
        query, key, value = node.args[:3]
        scale = key.meta["shape"][-1] ** -0.5 if scale is None else scale
        meta = {**node.meta, "shape": [*query.meta["shape"][:-1], key.meta["shape"][-2]]}
        with net.graph.inserting_before(node):
            turned = net.graph.call_function(aten.transpose.int, (key, -2, -1))
            scaled = net.graph.call_function(aten.mul.Tensor, (query, scale))
            scores = net.graph.call_function(aten.matmul.default, (scaled, turned))
            masked = scores
            if mask is not None:
                masked = net.graph.call_function(aten.add.Tensor, (scores, mask))
            share = net.graph.call_function(aten.softmax.int, (masked, -1))
            out = net.graph.call_function(aten.matmul.default, (share, value))
        shape = key.meta["shape"]
        turned.meta = {**key.meta, "shape": [*shape[:-2], shape[-1], shape[-2]]}
        scaled.meta, out.meta = dict(query.meta), dict(node.meta)
        for inner in {scores, masked, share}:
            inner.meta = dict(meta)
        node.replace_all_uses_with(out)
        net.graph.erase_node(node)
        rows.append(Row(node.meta["path"], "attention", "split", "into two matrix products"))
    return rows


def _boolean(mask: object) -> bool:
    """Whether a mask says where to look rather than what to add; its type is not kept."""
    return isinstance(mask, Node) and mask.meta.get("dtype") == "bool"
