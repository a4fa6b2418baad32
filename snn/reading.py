"""Read any network into a plain graph of ATen operations.

``torch.export`` sees through functional, in-place and shared activations, control flow and
modules that do two things at once: each call becomes one node. What is left after ``read``: no
in-place operation, no identity, ``batch_norm`` under one name, and the module path of every node.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import TreeSpec, tree_unflatten

from .annotations import annotate, path_of
from .errors import ConversionError
from .modes import evaluating
from .ops import CASTS, IDENTITIES, RESHAPES, aten
from .unreadable import quiet, readable, takes_any, unreadable

BATCH_NORM = aten.batch_norm.default
# Images that are read: export takes sizes 0 and 1 for constants.
_BATCH = 2
_BATCH_NORM_FORMS = {
    aten._native_batch_norm_legit_no_training.default,
    aten.native_batch_norm.default,
}


def read(network: nn.Module, images: Tensor) -> GraphModule:
    """Return the graph of ``network`` in evaluation mode; the network itself stays as it was.

    Args:
        network: any module from images to a tensor, or to tensors in tuples, lists or dicts.
        images: a batch ``[B, C, H, W]``; its values do not matter, its size does.

    Returns:
        A graph module with copies of the parameters under their own names. ``node.meta`` holds
        what ``annotations`` lists.

    Raises:
        ConversionError: if the network cannot be read, mixes images of a batch, or returns
            anything but tensors.

    Example:
        >>> graph = read(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.rand(2, 1, 8, 8))
        >>> [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
        ['aten.conv2d.default', 'aten.relu.default']
    """
    network = readable(network)
    with evaluating(network):
        program = _export(network, images)
    exported = program.module()
    assert isinstance(exported, GraphModule)
    _make_functional(exported)
    _inline_contexts(exported)
    _remove_guards(exported)
    _remove_identities(exported)
    _name_alike(exported)
    _structure_output(exported, program.call_spec.out_spec)
    annotate(exported)
    exported.graph.eliminate_dead_code()
    # A plain graph module holds what the graph uses, and may be trained, which exported may not.
    net = GraphModule(exported, exported.graph)
    net.meta["removed"] = exported.meta["removed"]
    _own_parameters(net)
    return net


def _export(network: nn.Module, images: Tensor) -> ExportedProgram:
    batch = images[:1].detach().repeat(_BATCH, *[1] * (images.dim() - 1))
    sizes = ({0: Dim.AUTO},)
    try:
        with torch.no_grad(), quiet():
            shapes = (sizes,) if takes_any(network) else sizes
            program = export(network, (batch,), dynamic_shapes=shapes, strict=False)
        if _mutates_views(program.graph):
            # An empty table decomposes nothing; it only makes in-place operations functional.
            # It traces the network again, which takes longer than all the rest: only if need be.
            program = program.run_decompositions({})
    except Exception as error:  # export and the network itself may raise anything
        raise unreadable(network, batch, error) from error
    placeholder = [n for n in program.graph.nodes if n.op == "placeholder"][-1]
    if isinstance(placeholder.meta["val"].shape[0], int):
        raise ConversionError(
            type(network).__name__,
            "its computation is tied to one batch size",
            "remove reshapes that hold the batch size as a number",
        )
    return program


def _own_parameters(module: GraphModule) -> None:
    """Copy parameters and buffers, so that nothing done here reaches the network given."""
    copies: dict[int, Tensor] = {}
    for owner in module.modules():
        for name, value in list(owner._parameters.items()):
            if value is not None:
                copy = copies.setdefault(id(value), value.detach().clone())
                owner._parameters[name] = nn.Parameter(copy, requires_grad=value.requires_grad)
        for name, buffer in list(owner._buffers.items()):
            if buffer is not None:
                owner._buffers[name] = buffer.detach().clone()
        # The graph needs what the network would not save, and computes again when it is made.
        owner._non_persistent_buffers_set.clear()


def _written(node: Node) -> Node | None:
    """Return the value that an in-place operation overwrites, None for any other node."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return None
    first = node.args[0] if node.args else None
    return first if isinstance(first, Node) and schema.arguments[0].is_write else None


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.target is operator.getitem:
        return True
    if node.op != "call_function" or schema is None or schema.is_mutable:
        return False
    declared = any(result.alias_info is not None for result in schema.returns)
    return declared or node.target in RESHAPES | IDENTITIES


def _mutates_views(graph: Graph) -> bool:
    """Whether an in-place operation writes to memory that another name still stands for."""
    for node in graph.nodes:
        written = _written(node)
        if written is None:
            continue
        if _is_view(written) or written.op != "call_function":
            return True
        if any(_is_view(user) for user in written.users if user < node):
            return True
    return False


def _make_functional(module: GraphModule) -> None:
    """Replace ``relu_(x)`` by ``relu(x)``, and ``x`` by the result wherever it is used later."""
    for node in list(module.graph.nodes):
        written = _written(node)
        if written is None:
            continue
        packet, overload = str(node.target).removeprefix("aten.").split(".")
        node.target = getattr(getattr(aten, packet.removesuffix("_")), overload)
        later = [user for user in written.users if node < user]
        for user in later:
            user.replace_input_with(written, node)


def _remove_guards(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        is_guard = node.op == "call_module" and not node.users and node.target == "_guards_fn"
        is_assert = node.op == "call_function" and "assert" in str(node.target)
        if is_guard or is_assert:
            module.graph.erase_node(node)


def _remove_identities(module: GraphModule) -> None:
    """Remove what does nothing in evaluation; ``module.meta["removed"]`` says what and where."""
    removed = module.meta.setdefault("removed", [])
    for node in list(module.graph.nodes):
        cast = node.op == "call_function" and node.target in CASTS and _same_type(node)
        nothing = node.target is aten.add.Tensor and node.args[1] in (0, 0.0) and _same_type(node)
        if cast or nothing or (node.op == "call_function" and node.target in IDENTITIES):
            if "dropout" in str(node.target):
                removed.append(path_of(node))
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _same_type(node: Node) -> bool:
    source = node.args[0]
    before = source.meta.get("val") if isinstance(source, Node) else None
    after = node.meta.get("val")
    return isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype


def _name_alike(module: GraphModule) -> None:
    """Give one name to what has several.

    ``native_batch_norm(x, w, b, mean, var, ...)[0]`` is ``batch_norm``, pools alike; a view is a
    reshape, which does not mind how time folded into the batch lies in memory; and what is left of
    the casts changes the type.
    """
    for node in list(module.graph.nodes):
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        if node.target in CASTS:  # a device named here would be out of date after ``.to()``
            node.target, node.kwargs = aten.to.dtype, {}
            node.args = (node.args[0], node.meta["val"].dtype)
        if node.target in _BATCH_NORM_FORMS:
            target, args = BATCH_NORM, (*node.args[:5], False, *node.args[-2:], False)
        elif node.target is aten.max_pool2d_with_indices.default:
            target, args = aten.max_pool2d.default, node.args
        elif node.target is aten.max.dim and not any(u.args[1] and u.users for u in node.users):
            target, args = aten.amax.default, (node.args[0], [node.args[1]], *node.args[2:])
        else:
            continue
        outputs = [u for u in node.users if u.target is operator.getitem and u.args[1] == 0]
        with module.graph.inserting_after(node):
            named = module.graph.call_function(target, args)
        for output in outputs:
            named.meta = {**output.meta, "nn_module_stack": node.meta.get("nn_module_stack")}
            output.replace_all_uses_with(named)
            module.graph.erase_node(output)


def _inline_contexts(module: GraphModule) -> None:
    """Put what runs with autocast switched off back into the graph; it was never on."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or "autocast" not in str(node.target):
            continue
        enabled, holder, inputs = node.args[2], node.args[4], node.args[5:]
        if enabled:
            raise ConversionError(
                path_of(node), "computes in mixed precision", "switch its autocast off"
            )
        inner = module.get_submodule(holder.target)
        assert isinstance(inner, GraphModule)
        places = inner.graph.find_nodes(op="placeholder")
        with module.graph.inserting_before(node):
            outputs = module.graph.graph_copy(inner.graph, dict(zip(places, inputs, strict=True)))
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(outputs[user.args[1]])  # type: ignore[index]
                module.graph.erase_node(user)
        module.graph.erase_node(node)


def _structure_output(module: GraphModule, spec: TreeSpec) -> None:
    """Let the graph return what the network returns: a tensor, or tuples, lists and dicts."""
    (output,) = module.graph.find_nodes(op="output")
    leaves = output.args[0]
    leaves = [leaves] if isinstance(leaves, Node) else list(leaves)
    if not leaves:
        raise ConversionError(
            "output", "the network returns no tensor", "wrap it to return its scores"
        )
    for place, leaf in enumerate(leaves):
        value = leaf.meta["val"] if isinstance(leaf, Node) else leaf
        if not isinstance(value, Tensor):
            kind = "int" if isinstance(value, torch.SymInt) else type(value).__name__
            raise ConversionError(
                f"output {place}",
                f"the network returns {kind} among its answers",
                "wrap it to return tensors only, in tuples, lists or dicts",
            )
        # Sizes that follow the batch are symbols, which equal numbers: those are looked for first.
        if any(isinstance(size, torch.SymInt) for size in value.shape):
            continue
        if value.shape[:1] == (_BATCH,):
            raise ConversionError(
                f"output {place}",
                "its computation is tied to one batch size",
                "use x.shape[0], not len(x) or loops over images, and keep constants outside",
            )
        raise ConversionError(
            f"output {place}",
            f"the network returns shape {list(value.shape)} for any number of images",
            "return only tensors that begin with the batch, and keep constants outside",
        )
    output.args = (_plain(tree_unflatten(leaves, spec)),)
    module.graph.set_codegen(torch.fx.graph.CodeGen())


def _plain(structure: Any) -> Any:
    if isinstance(structure, Node):
        return structure
    if isinstance(structure, dict) and all(isinstance(key, str) for key in structure):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        parts = [_plain(value) for value in structure]
        return parts if isinstance(structure, list) else tuple(parts)
    raise ConversionError(
        "output",
        f"the network returns a {type(structure).__name__}",
        "wrap it to return a tensor, or tensors in tuples, lists or dicts with names for keys",
    )


def has_statistics(node: Node) -> bool:
    """Whether a ``batch_norm`` node normalises by fixed statistics, one map for every image."""
    mean, var, training = node.args[3:6]
    fixed = [isinstance(arg, Node) and arg.op == "get_attr" for arg in (mean, var)]
    return all(fixed) and training is False
