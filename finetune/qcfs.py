"""Train the quantised ANN that a ternary network comes to rest at, without running a single step.

With ``drive = L`` the signed neurons of ``Ternary`` come to rest at exactly

    ``Q(z) = θ/L clip(floor(L z/θ + φ), 0, L)``

of the current ``z`` that the whole network sends them, ``φ`` being the membrane at the start in
thresholds (0.5 by default). So the network is trained as an ANN with ``Q`` for its activation: one
pass an image, whatever ``T``, and nothing is lost when it spikes again. The gradients are

    ``∂Q/∂z = 1[a < z < b]``,    ``∂Q/∂θ = (Q - z)/θ`` there, 0 below ``a``, 1 above ``b``

as if ``floor`` were a line. ``qcfs`` takes the range in which the levels change, ``a = -φ θ/L`` and
``b = θ + a``; ``lsq`` takes ``a = 0``, ``b = θ``, and multiplies the gradient of a threshold that
``N`` activations of an image share by ``1/√(N L)``.

Sources: Bu et al. 2022 (QCFS); Esser et al. 2020 (LSQ), eqs. 1 to 3 with the step ``θ/L``, and its
gradient scale. Bu et al. train from scratch at one
threshold a layer and convert to binary neurons, whose answer depends on when spikes arrive; here
the weights are those of a converted network, thresholds may be per channel, and the ternary
neurons' answer does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketune.snn import Neuron, SignedIF, SpikingNetwork, Temporal

from .errors import TuneError
from .rules import Batch, Learn, Outcome, Rule, Task, register_rule


@dataclass(frozen=True, kw_only=True)
class QCFS(Rule):
    """Train a ternary network as the quantised ANN that it says at rest; memory is an ANN's.

    The network must have come from ``Ternary(drive=L, encode=False)``. While it trains, the answer
    counts as given in each of the ``L`` driven steps. How many steps the spiking network takes to
    come to rest depends on its depth: at least ``L``, and ``steps`` may not be fewer.

    Attributes:
        levels: ``L``, the network's ``drive``.
        gradient: ``qcfs`` or ``lsq``, see above.
        train_thresholds: train the thresholds along with the weights. A threshold that was a
            ReLU6's ceiling moves like any other.

    Raises:
        TuneError: on fewer than one level, or another gradient.

    Example:
        >>> QCFS(levels=4).gradient
        'qcfs'
    """

    levels: int
    gradient: Literal["qcfs", "lsq"] = "qcfs"
    train_thresholds: bool = True

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise TuneError(f"QCFS: levels must be at least 1, not {self.levels}")
        if self.gradient not in _GRADIENTS:
            raise TuneError(f"QCFS: gradient must be qcfs or lsq, not {self.gradient!r}")


@dataclass(frozen=True)
class _Gradient:
    """Where a gradient passes, ``0 < L z/θ + φ shift < L``, and whether it is scaled."""

    shift: float
    scaled: bool


_GRADIENTS = {
    "qcfs": _Gradient(shift=1.0, scaled=False),
    "lsq": _Gradient(shift=0.0, scaled=True),
}


@register_rule(QCFS)
def qcfs(snn: SpikingNetwork, rule: QCFS, task: Task) -> Learn:
    """Check that the network is a quantised ANN and return the step that learns from a batch."""
    _check(snn, rule, task.steps)
    for _, neuron in snn.neurons():
        neuron.threshold.requires_grad_(rule.train_thresholds)

    def instead(name: str, unit: Temporal, current: Tensor) -> Tensor:
        assert isinstance(unit, Neuron)
        active = quantised(unit, current, rule)
        task.show(name, active)
        return active

    def learn(batch: Batch) -> Outcome:
        answers = snn.ann(batch.images, instead=instead)
        answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
        silent = answers.new_zeros(task.steps - rule.levels, *answers.shape)
        sent = torch.cat([answers.expand(rule.levels, *answers.shape), silent])
        loss = task.criterion(sent, batch)
        task.backward(loss)
        return Outcome(loss.detach(), answers.detach())

    return learn


def quantised(neuron: Neuron, current: Tensor, rule: QCFS) -> Tensor:
    """Return ``Q`` of the current ``z [B, ...]``, with the gradients of the rule.

    Example:
        >>> neuron = SignedIF(torch.tensor(1.0), initial=0.5, limit=4)
        >>> z = torch.tensor([-1.0, 0.1, 0.3, 9.0])
        >>> quantised(neuron, z, QCFS(levels=4)).tolist()
        [0.0, 0.0, 0.25, 1.0]
    """
    # As the neuron itself does: under autocast a layer hands in half precision.
    current = current.to(torch.promote_types(current.dtype, neuron.threshold.dtype))
    active: Tensor = _Quantise.apply(
        current, neuron.threshold, neuron.initial, rule.levels, _GRADIENTS[rule.gradient]
    )
    return active


class _Quantise(torch.autograd.Function):
    """``Q`` forward, a line between its ends backward."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, threshold: Tensor, offset: Tensor, levels: int, gradient: _Gradient
    ) -> Tensor:
        active = (levels * z / threshold + offset).floor().clamp(0, levels) * threshold / levels
        ctx.save_for_backward(z, threshold, offset, active)
        ctx.levels, ctx.gradient = levels, gradient
        return active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold, offset, active = ctx.saved_tensors
        place = ctx.levels * z / threshold + ctx.gradient.shift * offset
        inside = (place > 0) & (place < ctx.levels)
        by_threshold = torch.where(inside, (active - z) / threshold, (place > 0).to(z.dtype))
        of_threshold = (grad * by_threshold).sum_to_size(threshold.shape)
        if ctx.gradient.scaled:
            sharing = z[0].numel() / threshold.numel()
            of_threshold = of_threshold / (sharing * ctx.levels) ** 0.5
        return grad * inside, of_threshold, None, None, None


def _check(snn: SpikingNetwork, rule: QCFS, steps: int) -> None:
    """Refuse, by name, what does not come to rest at the quantised ANN.

    Raises:
        TuneError: naming the place and the remedy.
    """
    levels = rule.levels
    again = f"convert with Ternary(steps={levels}, drive={levels}, encode=False)"
    units = {
        node.name: snn.net.get_submodule(str(node.target))
        for node in snn.net.graph.find_nodes(op="call_module")
    }
    for name, unit in units.items():  # first: to these no number of levels would help
        if type(unit) is not SignedIF:
            raise TuneError(
                f"{name}: QCFS trains SignedIF neurons, with nothing in the network beside "
                f"them that has a state or a norm, not {type(unit).__name__}; {again}"
            )
    if snn.drive != levels:
        remedy = again if snn.drive is None else f"give QCFS(levels={snn.drive}), or {again}"
        raise TuneError(
            f"QCFS(levels={levels}) trains what a network with drive={levels} comes to rest at, "
            f"and this one has drive={snn.drive}; {remedy}"
        )
    if steps < levels:
        raise TuneError(
            f"QCFS(levels={levels}) trains the answer at rest, which takes at least {levels} "
            f"steps, not {steps}; give more steps, or convert with fewer levels"
        )
    for name, unit in units.items():
        assert isinstance(unit, SignedIF)
        if unit.limit != levels or unit.firing.strict or unit.floor != 0:
            raise TuneError(
                f"{name}: a SignedIF with limit={unit.limit}, strict={unit.firing.strict}, "
                f"floor={unit.floor} does not rest at {levels} levels from zero; {again}"
            )
