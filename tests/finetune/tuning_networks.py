"""Small spiking networks made by hand, so that these tests need no converter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spiketune.snn import IF, LIF, Neuron, SignedIF, SpikingNetwork, read

KINDS: dict[str, Callable[[Tensor], Neuron]] = {
    "if": lambda threshold: IF(threshold, initial=0.5),
    "signed": lambda threshold: SignedIF(threshold, initial=0.5),
    "lif": lambda threshold: LIF(threshold, leak=0.9),
}


def spiking(ann: nn.Module, images: Tensor, kind: str = "if", *, steps: int = 8) -> SpikingNetwork:
    """Put neurons in place of the ReLUs: the largest activation is the threshold."""
    net = read(ann, images)
    relus = [n for n in net.graph.nodes if "relu" in str(n.target)]
    plain = SpikingNetwork(net, steps=1, input_shape=tuple(images.shape[1:]))
    top: dict[str, Tensor] = {}
    with torch.no_grad():

        def record(node: torch.fx.Node, value: object) -> None:
            if node in relus and isinstance(value, Tensor):
                largest = value.flatten(2).amax((0, 2)) if value.dim() > 2 else value.amax(0)
                top[node.name] = largest.clamp_min(0.1).view(-1, *[1] * (value.dim() - 2))

        plain.program.ann(images, record=record)
    for node in relus:
        net.add_submodule(f"act.{node.name}", KINDS[kind](top[node.name]))
        with net.graph.inserting_after(node):
            new = net.graph.call_module(f"act.{node.name}", (node.args[0],))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        net.graph.erase_node(node)
    net.recompile()
    return SpikingNetwork(net, steps=steps, input_shape=tuple(images.shape[1:])).eval()


def small_ann(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 16, 10),
        ).eval()


def freeze_last_layer(snn: SpikingNetwork) -> list[str]:
    """Let the answers be read off by random weights; return the names of all the others.

    What such a network learns, its hidden layers have learned.
    """
    snn.net.get_parameter("5.weight").data.mul_(10)  # so that spikes can tell classes apart
    for kind in ("weight", "bias"):
        snn.net.get_parameter(f"5.{kind}").requires_grad_(False)
    return [f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
