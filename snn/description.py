"""Describe a spiking network as plain JSON data, and build it again from that.

Names in a description are looked up in the table of operations and in the registries of units and
settings, never imported and never evaluated.
"""

from __future__ import annotations

from dataclasses import asdict
from keyword import iskeyword
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from .errors import StorageError
from .network import SpikingNetwork
from .norms import NORMS, describe_norm, rebuild_norm
from .ops import BY_NAME
from .report import Report, Row
from .settings import decode, encode
from .units import describe_unit, rebuild_unit

SCHEMA = "spiketune/2"


def describe(snn: SpikingNetwork) -> dict[str, Any]:
    """Return the network without its tensors, as plain JSON data."""
    modules = {}
    for node in snn.net.graph.find_nodes(op="call_module"):
        modules[node.target] = _describe_unit(snn.net.get_submodule(node.target), node.target)
    return {
        "schema": SCHEMA,
        "steps": snn.steps,
        "drive": snn.drive,
        "readout": encode(snn.readout),
        "input_shape": list(snn.input_shape),
        "tensors": {
            name: {
                "shape": list(value.shape),
                "buffer": not isinstance(value, nn.Parameter),
                "trained": value.requires_grad,
            }
            for name, value in [*snn.net.named_parameters(), *snn.net.named_buffers()]
        },
        "pretrained_cfg": snn.pretrained_cfg,
        "about": snn.about,
        "modules": modules,
        "nodes": [_describe_node(node) for node in snn.net.graph.nodes],
        "report": [asdict(row) for row in snn.report.rows],
    }


def rebuild(data: dict[str, Any], origin: str) -> SpikingNetwork:
    """Return the network that ``describe`` described, its tensors still empty.

    Raises:
        StorageError: on an unknown schema, operation or unit.
    """
    if data.get("schema") != SCHEMA:
        raise StorageError(
            f"{origin}: schema {data.get('schema')!r}, this version reads {SCHEMA!r}; "
            "install the spiketune that wrote it, or make it again"
        )
    for name in (*data["modules"], *data["tensors"]):
        if not all(part.replace("_", "a").isalnum() and part.isascii() for part in name.split(".")):
            raise StorageError(f"{origin}: {name!r} is no module path; the file is none of ours")
    root = nn.Module()
    for name, unit in data["modules"].items():
        _attach(root, name, _rebuild_unit(unit, data["tensors"], name, origin))
    for name, info in data["tensors"].items():
        owner, _, leaf = name.rpartition(".")
        holder = _holder(root, owner)
        if hasattr(holder, leaf):
            continue
        empty = torch.zeros(info["shape"])
        if info["buffer"]:
            holder.register_buffer(leaf, empty)
        else:
            holder.register_parameter(leaf, nn.Parameter(empty, requires_grad=info["trained"]))
    if not all(isinstance(size, int) and size > 0 for size in data["input_shape"]):
        raise StorageError(f"{origin}: {data['input_shape']} is no image shape; make it again")
    graph = _rebuild_graph(data, origin)
    net = GraphModule(root, graph)
    return SpikingNetwork(
        net,
        steps=data["steps"],
        drive=data["drive"],
        readout=decode(data["readout"], origin),
        input_shape=tuple(data["input_shape"]),
        report=Report(tuple(Row(**row) for row in data["report"])),
        pretrained_cfg=data["pretrained_cfg"],
        about=data["about"],
    )


def revive(data: dict[str, Any], state: dict[str, torch.Tensor], training: bool) -> SpikingNetwork:
    """Return the network of a description with its tensors, as unpickling needs it.

    Example:
        >>> import pickle, spiketune as st
        >>> ann = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
        >>> snn = st.to_snn(ann, torch.rand(9, 4), st.Binary())
        >>> pickle.loads(pickle.dumps(snn)).steps
        16
    """
    snn = rebuild(data, "pickle")
    for name, target in [*snn.named_parameters(), *snn.named_buffers()]:
        target.data = state[name]
    return snn.train(training)


def _describe_unit(unit: nn.Module, path: str) -> dict[str, Any]:
    return describe_norm(unit) if type(unit).__name__ in NORMS else describe_unit(unit, path)


def _rebuild_unit(
    data: dict[str, Any], tensors: dict[str, Any], path: str, origin: str
) -> nn.Module:
    if data["type"] in NORMS:
        unit = rebuild_norm(data)
    else:
        unit = rebuild_unit(data, tensors, path, origin)
    for name, parameter in unit.named_parameters():
        parameter.requires_grad = tensors[f"{path}.{name}"]["trained"]
    return unit


def _attach(root: nn.Module, path: str, unit: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    _holder(root, owner).add_module(leaf, unit)


def _holder(root: nn.Module, path: str) -> nn.Module:
    """Return the module at ``path``, made of empty modules where there is none yet."""
    for name in path.split(".") if path else []:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root


_META = ("path", "batch", "along", "size")


def _describe_node(node: Node) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return {"node": value.name}
        if isinstance(value, dict):
            return {"dict": {key: plain(item) for key, item in value.items()}}
        if isinstance(value, tuple) and node.op == "output":
            return {"tuple": [plain(item) for item in value]}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.dtype | torch.layout):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        raise StorageError(f"{node.name}: an argument of type {type(value).__name__} is not data")

    return {
        "name": node.name,
        "op": node.op,
        "target": str(node.target) if node.op != "call_function" else _name_of(node),
        "args": [plain(arg) for arg in node.args],
        "kwargs": {key: plain(value) for key, value in node.kwargs.items()},
        "meta": {key: node.meta[key] for key in _META if key in node.meta},
    }


def _name_of(node: Node) -> str:
    name = str(node.target)
    if name not in BY_NAME:
        raise StorageError(f"{node.name}: operation {name} is not in the table of operations")
    return name


def _plain(name: str) -> bool:
    return name.isidentifier() and name.isascii() and not iskeyword(name)


def _checked_target(item: dict[str, Any], data: dict[str, Any], origin: str) -> Any:
    """Return what a node calls, if it is known.

    A graph module writes names into generated code: whatever is not a plain name is refused.
    """
    op, target = item["op"], item["target"]
    names = [item["name"], *item["kwargs"], *([target] if op == "placeholder" else [])]
    strange = [name for name in names if not _plain(name)]
    if strange:
        raise StorageError(f"{origin}: {strange[0]!r} is no name; the file is none of ours")
    if op == "call_function":
        if target not in BY_NAME:
            raise StorageError(
                f"{origin}: operation {target!r} is not in the table of operations; "
                "it needs a newer spiketune, or is none of ours"
            )
        return BY_NAME[target]
    known = {
        "placeholder": [target],
        "output": ["output"],
        "get_attr": data["tensors"],
        "call_module": data["modules"],
    }
    if target not in known.get(op, ()):
        raise StorageError(f"{origin}: a node {op!r} of {target!r}; the file is none of ours")
    return target


def _rebuild_graph(data: dict[str, Any], origin: str) -> Graph:
    graph = Graph()
    known: dict[str, Node] = {}

    def value(arg: Any) -> Any:
        if isinstance(arg, list):
            return [value(item) for item in arg]
        if not isinstance(arg, dict):
            return arg
        ((kind, held),) = arg.items()
        if kind == "node":
            return known[held]
        if kind == "dict":
            return {key: value(item) for key, item in held.items()}
        if kind == "tuple":
            return tuple(value(item) for item in held)
        found = torch.device(held) if kind == "device" else getattr(torch, str(held), None)
        if not isinstance(found, torch.dtype | torch.layout | torch.device):
            raise StorageError(f"{origin}: {held!r} is no type of tensor; the file is none of ours")
        return found

    for item in data["nodes"]:
        target = _checked_target(item, data, origin)
        args = tuple(value(arg) for arg in item["args"])
        kwargs = {key: value(arg) for key, arg in item["kwargs"].items()}
        node = graph.create_node(item["op"], target, args, kwargs, name=item["name"])
        node.meta = {key: item["meta"][key] for key in _META if key in item["meta"]}
        known[item["name"]] = node
    kinds = [item["op"] for item in data["nodes"]]
    if kinds.count("placeholder") != 1 or kinds.count("output") != 1 or kinds[-1] != "output":
        raise StorageError(f"{origin}: not one input and one output; make the file again")
    return graph
