"""Fit each layer's weights to the spikes that really arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from spiketune.snn import Neuron, SpiketuneError, SpikingNetwork
from spiketune.snn.network import check_steps
from spiketune.snn.ops import WEIGHTED, aten
from spiketune.snn.program import fetch

from ..walk import walk
from .base import Correction

if TYPE_CHECKING:
    from ..calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class WeightCalibration(Correction):
    """``W, b <- argmin E|f(W r + b) - f(z)|²``, layer by layer, by Adam from the ANN's weights.

    ``r`` is what the spikes of the layers before say after ``T`` steps, ``z`` the current in the
    ANN and ``f`` the activation behind the layer (none where no neuron follows at once).

    Attributes:
        images: calibration images used; all steps of a layer are held in memory at once.
        iterations: of Adam in each layer.
        rate: step of Adam, as a share of the weights' standard deviation.

    Raises:
        SpiketuneError: on a setting out of its range.

    Source: Li et al. 2021, "A free lunch from ANN", section 5.2 (advanced calibration).

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
        >>> method = st.Ternary(steps=4, corrections=(WeightCalibration(images=16, iterations=9),))
        >>> snn = st.to_snn(ann, torch.rand(32, 4), method)
        >>> bool((snn.net.get_parameter("2.weight") != ann[2].weight).any())
        True
    """

    images: int = 64
    iterations: int = 50
    rate: float = 0.003

    def __post_init__(self) -> None:
        check_steps(self.images, "images")
        check_steps(self.iterations, "iterations")
        if not self.rate > 0:
            raise SpiketuneError(f"rate must be above zero, not {self.rate}")

    def correct(self, calibration: Calibration) -> None:
        """Walk through the network once and fit every layer that sees spikes."""
        snn = calibration.snn

        def weigh(node: Node, answer: Tensor, arriving: Tensor) -> None:
            if all(_sole(node, place) for place in _constants(node)):
                self._fit(snn, node, answer, arriving)

        images = calibration.images[: self.images].to(calibration.device)
        walk(snn, images, snn.steps, lambda at: None, weigh=weigh, reference=calibration.reference)

    def _fit(self, snn: SpikingNetwork, node: Node, answer: Tensor, arriving: Tensor) -> None:
        neuron = _neuron_behind(snn, node)
        wanted = answer if neuron is None else neuron.activation(answer)
        places = _constants(node)
        held = [fetch(snn.net, constant) for constant in places]
        free = [value.detach().clone().requires_grad_() for value in held]
        spread = float(held[0].std()) if held[0].numel() > 1 else 1.0
        adam = torch.optim.Adam(free, lr=self.rate * max(spread, 1e-12))
        source = node.all_input_nodes[0]
        given = {**dict(zip(places, free, strict=True)), source: arriving}
        with torch.enable_grad():
            for _ in range(self.iterations):
                out: Tensor = snn.program.apply(node, node.args, lambda n: given[n])
                out = out if neuron is None else neuron.activation(out)
                loss = (out - wanted).square().mean()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
        for value, fitted in zip(held, free, strict=True):
            value.data.copy_(fitted.detach())


def _constants(node: Node) -> list[Node]:
    """Return the nodes of the weight and, where there is one, of the bias."""
    found = [node.args[i] for i in WEIGHTED[node.target] if i < len(node.args)]
    return [constant for constant in found if isinstance(constant, Node)]


def _sole(node: Node, constant: Node) -> bool:
    """Whether no other layer shares these weights."""
    same = [n for n in node.graph.find_nodes(op="get_attr") if n.target == constant.target]
    return sum(len(n.users) for n in same) == 1


def _neuron_behind(snn: SpikingNetwork, node: Node) -> Neuron | None:
    """Return the neuron that the layer feeds, if that is all it does."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.op == "call_module":
            unit = snn.net.get_submodule(str(node.target))
            return unit if isinstance(unit, Neuron) else None
        constant = [n for n in node.all_input_nodes if n.op == "get_attr"]
        if node.target is not aten.add.Tensor or len(constant) != 1:
            return None
        # A shift that another correction has put there stays outside the fit.
        if bool((fetch(snn.net, constant[0]) != 0).any()):
            return None
    return None
