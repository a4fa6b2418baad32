"""Read any network into a plain graph of ATen operations.

``torch.export`` sees through functional, in-place and shared activations, control flow and
modules that do two things at once: each call becomes one node. What is left after ``read``: no
in-place operation, no identity, ``batch_norm`` under one name, and the module path of every node.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx import Graph, GraphModule, Node

from .errors import ConversionError
from .modes import evaluating
from .ops import CASTS, IDENTITIES, RESHAPES, aten

BATCH_NORM = aten.batch_norm.default
_BATCH_NORM_FORMS = {
    aten._native_batch_norm_legit_no_training.default,
    aten.native_batch_norm.default,
}


def read(network: nn.Module, images: Tensor) -> GraphModule:
    """Return the graph of ``network`` in evaluation mode; the network itself stays as it was.

    Args:
        network: any module from images to one tensor.
        images: a batch ``[B, C, H, W]``; its values do not matter, its size does.

    Returns:
        A graph module with copies of the parameters under their own names. ``node.meta`` holds
        ``path`` (module path), ``shape`` (of the output at batch size 2) and ``batch`` (whether
        the images ``lead`` in it, are ``nowhere`` or ``elsewhere``).

    Raises:
        ConversionError: if the network cannot be read, mixes images of a batch, or returns
            anything but one tensor.

    Example:
        >>> graph = read(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.rand(2, 1, 8, 8))
        >>> [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
        ['aten.conv2d.default', 'aten.relu.default']
    """
    with evaluating(network):
        program = _export(network, images)
    exported = program.module()
    assert isinstance(exported, GraphModule)
    _make_functional(exported)
    _remove_guards(exported)
    _remove_identities(exported)
    _name_alike(exported)
    _single_output(exported)
    _annotate(exported)
    exported.graph.eliminate_dead_code()
    # A plain graph module holds what the graph uses, and may be trained, which exported may not.
    net = GraphModule(exported, exported.graph)
    net.meta["removed"] = exported.meta["removed"]
    _own_parameters(net)
    return net


def _export(network: nn.Module, images: Tensor) -> ExportedProgram:
    # A batch of two: export takes sizes 0 and 1 for constants.
    batch = images[:1].detach().repeat(2, *[1] * (images.dim() - 1))
    try:
        with torch.no_grad():
            program = export(network, (batch,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
        if _mutates_views(program.graph):
            # An empty table decomposes nothing; it only makes in-place operations functional.
            # It traces the network again, which takes longer than all the rest: only if need be.
            program = program.run_decompositions({})
    except Exception as error:  # export and the network itself may raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            type(network).__name__,
            f"torch.export cannot read it on images of shape {list(images.shape)} ({first})",
            "check the images' size and channels, or remove control flow that depends on values",
        ) from error
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
        if cast or (node.op == "call_function" and node.target in IDENTITIES):
            if "dropout" in str(node.target):
                removed.append(_path_of(node))
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _same_type(node: Node) -> bool:
    source = node.args[0]
    before = source.meta.get("val") if isinstance(source, Node) else None
    after = node.meta.get("val")
    return isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype


def _name_alike(module: GraphModule) -> None:
    """Give one name to what has several.

    ``native_batch_norm(x, w, b, mean, var, ...)[0]`` is ``batch_norm``, pools alike; and a view
    is a reshape, which does not mind how time folded into the batch lies in memory.
    """
    for node in list(module.graph.nodes):
        if node.target is aten.view.default:
            node.target = aten.reshape.default
        if node.target in _BATCH_NORM_FORMS:
            target, args = BATCH_NORM, (*node.args[:5], False, *node.args[-2:], False)
        elif node.target is aten.max_pool2d_with_indices.default:
            target, args = aten.max_pool2d.default, node.args
        else:
            continue
        outputs = [u for u in node.users if u.target is operator.getitem and u.args[1] == 0]
        with module.graph.inserting_after(node):
            named = module.graph.call_function(target, args)
        for output in outputs:
            named.meta = {**output.meta, "nn_module_stack": node.meta.get("nn_module_stack")}
            output.replace_all_uses_with(named)
            module.graph.erase_node(output)


def _single_output(module: GraphModule) -> None:
    (output,) = module.graph.find_nodes(op="output")
    leaves = output.args[0]
    if isinstance(leaves, Node):
        return
    if len(leaves) != 1 or not isinstance(leaves[0], Node):
        raise ConversionError(
            "output", f"the network returns {len(leaves)} tensors", "wrap it to return one tensor"
        )
    output.args = (leaves[0],)
    module.graph.set_codegen(torch.fx.graph.CodeGen())


def _annotate(module: GraphModule) -> None:
    """Keep of each node's meta data only what is small: its module path and its shape."""
    path = ""
    for node in module.graph.nodes:
        path = _path_of(node, fallback=path)
        value = node.meta.get("val")
        value = value[0] if isinstance(value, list | tuple) and value else value
        shape = [int(size) for size in value.shape] if isinstance(value, Tensor) else None
        node.meta = {"path": path, "shape": shape, "batch": _batch_of(value)}


def _batch_of(value: object) -> str:
    """Say where the images of a batch lie in a value: they lead, are nowhere, or elsewhere."""
    if not isinstance(value, Tensor):
        return "nowhere"
    varying = [not isinstance(size, int) for size in value.shape]
    return "nowhere" if not any(varying) else "lead" if varying.index(True) == 0 else "elsewhere"


def _path_of(node: Node, fallback: str = "") -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return fallback
    # A module called twice is named ``relu@1`` the second time.
    path: str = [entry[0] for entry in stack.values()][-1]
    return path.split("@")[0].removeprefix("L__self__").removeprefix("_").strip(".")


def has_statistics(node: Node) -> bool:
    """Whether a ``batch_norm`` node normalises by fixed statistics, one map for every image."""
    mean, var, training = node.args[3:6]
    fixed = [isinstance(arg, Node) and arg.op == "get_attr" for arg in (mean, var)]
    return all(fixed) and training is False
