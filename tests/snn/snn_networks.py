"""Small networks whose sums are exact, and spiking networks made without the converter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spiketune.snn import IF, Neuron, SpikingNetwork, read


class Residual(nn.Module):
    """Strides, a residual sum, average pooling, a linear head: five layers, four of them ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.hidden = nn.Linear(16, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        x = torch.relu(self.third(x) + x)
        x = torch.relu(self.hidden(functional.avg_pool2d(x, 2).flatten(1)))
        return self.head(x)


@torch.no_grad()
def dyadic(net: nn.Module, grain: int = 64) -> nn.Module:
    """Return ``net`` in double precision with parameters that are multiples of ``1/grain``."""
    net = net.double().eval()
    for parameter in net.parameters():
        parameter.copy_((parameter * grain).round() / grain)
    return net


def dyadic_images(count: int, *shape: int, grain: int = 64) -> Tensor:
    return torch.randint(0, grain + 1, (count, *shape)).double() / grain


def spiking(
    ann: nn.Module,
    x: Tensor,
    neuron: type[Neuron] = IF,
    *,
    thresholds: tuple[float, ...] = (0.25, 0.5, 1.0),
    steps: int = 11,
    drive: int | None = None,
    **settings: object,
) -> SpikingNetwork:
    """Put a neuron in the place of each ReLU, thresholds drawn a channel from those given."""
    net = read(ann, x)
    for node in list(net.graph.nodes):
        if "aten.relu" not in str(node.target):
            continue
        shape = node.meta["shape"]
        drawn = torch.tensor(thresholds, dtype=x.dtype)[torch.randint(len(thresholds), shape[1:2])]
        threshold = drawn.view(-1, *[1] * (len(shape) - 2))
        unit = neuron(threshold, initial=0.5, **settings)  # type: ignore[arg-type]
        net.add_submodule(f"unit_{node.name}", unit)
        with net.graph.inserting_after(node):
            called = net.graph.call_module(f"unit_{node.name}", (node.args[0],))
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        net.graph.erase_node(node)
    net.recompile()
    shape = tuple(x.shape[1:])
    return SpikingNetwork(net, steps=steps, input_shape=shape, drive=drive).eval()
