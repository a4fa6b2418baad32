"""The rule of Lee, Delbruck and Pfeiffer: backpropagation on filtered spike trains.

The network runs through all steps without gradients. Of each neuron a trace is kept, its spikes
filtered as a membrane filters them, ``x̄ = Σ_t λ^(T-1-t) x[t] / Σ_t λ^t``. Then one pass as of an
ordinary network follows, in which every neuron answers its trace and passes gradients on as
``rest`` tells: as a rectified linear unit, in groups with the inhibition taken into account. So
``∂L/∂w_ik = δ_i x̄_k``, with the paper's traces up to one factor for all layers, and what training
keeps does not grow with ``T``.

A loss sees the outputs of all steps. The last trace stands for each of them, so its gradient is
the sum of theirs. Output neurons that are silent would never learn to fire: with ``wake`` they
take part as if they had fired.

Source: Lee, Delbruck & Pfeiffer 2016, "Training deep spiking neural networks using
backpropagation" (Frontiers in Neuroscience). Reconstructed from notes, without the paper at hand:
the exponents of ``scale="paper"``, a group's winners (here those that fired for an image), and
``wake``. Different here: steps in the place of events, and with them no ``w_dyn`` after a spike;
one ``κ`` a layer; homeostasis as a term of the loss with the paper's step for its gradient, so
that the learning rate scales it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketune.snn import LIF, Delay, Lateral, Neuron, SpikingNetwork, Temporal
from spiketune.snn.checks import number
from spiketune.snn.lateral import LARGEST

from .alive import Alive
from .between import common_leak, last_neurons, require_linear, scales
from .errors import TuneError
from .rest import rested
from .rules import Batch, Learn, Outcome, Rule, Task, register_rule
from .weight_growth import WeightGrowth, growth_penalty


@dataclass(frozen=True, kw_only=True)
class Lee(Rule):
    """Train IF, LIF and Lateral neurons with a soft reset by the traces of their spikes.

    Attributes:
        thresholds: ``own`` gives every neuron one of its own and trains it, ``shared`` trains them
            as they are in the network, ``fixed`` does not.
        train_inhibition: train ``κ`` of ``Lateral`` neurons.
        scale: ``paper`` scales gradients by layer size and activity (see ``rest.Scale``).
        homeostasis: ``ρ``: of a group of ``N`` neurons, ``N_w`` of which fired for an image, those
            have their thresholds pulled up by ``ρ``, and all are pulled down by ``ρ N_w/N``: ``N``
            times the paper's, so that one serves groups of any size.
        growth: a penalty on large weights, a mean over a neuron's inputs where theirs is a sum;
            None for none.
        wake: let silent output neurons learn from their errors.

    Raises:
        TuneError: on a value of another type or out of its range, or homeostasis of thresholds
            that neurons share.

    Example:
        >>> Lee(homeostasis=1e-3).thresholds
        'own'
    """

    thresholds: Literal["own", "shared", "fixed"] = "own"
    train_inhibition: bool = True
    scale: Literal["none", "paper"] = "none"
    homeostasis: float = 0.0
    growth: WeightGrowth | None = None
    wake: bool = True

    def __post_init__(self) -> None:
        if self.thresholds not in ("own", "shared", "fixed"):
            raise TuneError(
                f"Lee: thresholds must be own, shared or fixed, not {self.thresholds!r}"
            )
        if self.scale not in ("none", "paper"):
            raise TuneError(f"Lee: scale must be none or paper, not {self.scale!r}")
        if not (number(self.homeostasis) and self.homeostasis >= 0):
            raise TuneError(f"Lee: homeostasis must be 0 or more, not {self.homeostasis!r}")
        if self.homeostasis and self.thresholds != "own":
            raise TuneError(
                "Lee: homeostasis moves a neuron's threshold against those of its group; give "
                f"thresholds='own', not {self.thresholds!r}"
            )
        if self.growth is not None and not isinstance(self.growth, WeightGrowth):
            raise TuneError(f"Lee: growth must be WeightGrowth(...) or None, not {self.growth!r}")
        for name in ("train_inhibition", "wake"):
            if not isinstance(getattr(self, name), bool):
                raise TuneError(f"Lee: {name} must be True or False, not {getattr(self, name)!r}")


@register_rule(Lee)
def lee(snn: SpikingNetwork, rule: Lee, task: Task) -> Learn:
    """Give every neuron its threshold and return the step that learns from one batch.

    Raises:
        TuneError: on what no trace can be taken of, naming it.
    """
    leak = common_leak(snn, "Lee")
    require_linear(snn, "Lee")
    if snn.drive is not None and snn.drive < task.steps:
        raise TuneError(
            f"Lee takes an image as a current that acts at all {task.steps} steps, and with "
            f"drive={snn.drive} it ends before; build or convert the network with drive=None"
        )
    _make_trainable(snn, rule)
    scale = scales(snn) if rule.scale == "paper" else {}
    last = last_neurons(snn) if rule.wake else set()
    alive = Alive("or train with SurrogateBPTT()", task.begun)
    neurons = dict(snn.neurons())

    def learn(batch: Batch) -> Outcome:
        outputs, traces = traced(snn, batch.images, task.steps, leak)
        alive({name: traces[name] for name in neurons if name not in last})

        def instead(name: str, unit: Temporal, current: Tensor) -> Tensor:
            if not isinstance(unit, Neuron):
                return _as_measured(unit.ann(current), traces[name])
            sent = rested(unit, current, traces[name], scale.get(name), wake=name in last)
            task.show(name, sent)
            return sent

        answers = snn.ann(batch.images, instead=instead)
        sent: Tensor = _Sent.apply(answers, outputs)
        loss = task.criterion(sent, batch)
        terms = [loss]
        if rule.growth is not None:
            terms.append(growth_penalty(snn, rule.growth))
        if rule.homeostasis:
            terms.append(rule.homeostasis * pull(neurons, traces))
        task.backward(torch.stack(terms).sum())
        return Outcome(loss.detach(), snn.read(outputs))

    return learn


def traced(
    snn: SpikingNetwork, images: Tensor, steps: int, leak: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run without gradients and return outputs and traces.

    Args:
        snn: the network.
        images: ``[B, C, H, W]``.
        steps: ``T``.
        leak: ``λ``.

    Returns:
        Outputs of all steps ``[T, B, classes]``, and of each unit ``Σ_t λ^(T-1-t) x[t] / Σ_t λ^t``
        of what it sent, ``[B, ...]`` by name.

    Example:
        >>> import spiketune as st
        >>> ann = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> snn = st.twin(ann, 2, (1,))
        >>> _ = snn.net.get_parameter("0.weight").data.fill_(1.0)
        >>> outputs, traces = traced(snn, torch.tensor([[0.5]]), 2, 0.5)  # it fires at the end
        >>> outputs.flatten().tolist(), [round(trace.item(), 4) for trace in traces.values()]
        ([0.0, 1.0], [0.6667])
    """
    traces: dict[str, Tensor] = {}

    def add(name: str, sent: Tensor) -> None:
        dtype = torch.promote_types(sent.dtype, torch.float32)
        age = torch.arange(len(sent) - 1, -1, -1, device=sent.device, dtype=dtype)
        total = torch.tensordot(leak**age, sent.to(dtype), dims=1)
        traces[name] = total if name not in traces else traces[name] * leak ** len(sent) + total

    with torch.no_grad():
        outputs = torch.cat(list(snn.outputs(images, steps, monitor=add)))
    whole = sum(leak**t for t in range(steps))
    return outputs, {name: total / whole for name, total in traces.items()}


class _Sent(torch.autograd.Function):
    """The outputs of all steps; their gradients, summed over the steps, for the one answer."""

    @staticmethod
    def forward(ctx: Any, answers: Tensor, outputs: Tensor) -> Tensor:
        ctx.dtype = answers.dtype
        return outputs.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].sum(0).to(ctx.dtype), None


def _as_measured(stood_for: Tensor, measured: Tensor) -> Tensor:
    """Return what was measured, with the gradient of what it stands for."""
    return stood_for + (measured - stood_for).detach()


def pull(neurons: dict[str, Neuron], traces: dict[str, Tensor]) -> Tensor:
    """Return a scalar whose gradient pulls winners' thresholds up and the others down.

    ``Σ_i θ_i (N_w/N - 1[i fired])``, the mean over images; a group's thresholds keep their mean.

    Example:
        >>> from spiketune.snn import LIF
        >>> neuron = LIF(torch.ones(2), leak=0.9)
        >>> _ = neuron.threshold.requires_grad_()
        >>> pull({"relu": neuron}, {"relu": torch.tensor([[0.5, 0.0]])}).backward()
        >>> neuron.threshold.grad
        tensor([-0.5000,  0.5000])
    """
    terms = []
    for name, neuron in neurons.items():
        won = (traces[name] > 0).to(neuron.threshold.dtype)
        if isinstance(neuron, Lateral):
            share = neuron.in_group(won) / neuron.in_group(torch.ones_like(won))
        else:
            share = won.flatten(1).mean(1).view(-1, *[1] * (won.dim() - 1))
        terms.append((neuron.threshold * (share - won).mean(0)).sum())
    return torch.stack(terms).sum()


def _make_trainable(snn: SpikingNetwork, rule: Lee) -> None:
    """Give neurons thresholds of their own where they are to have some; say what trains."""
    for place, unit in snn.net.named_modules():
        if isinstance(unit, Delay) and unit.delay.requires_grad:
            raise TuneError(
                f"{place}: a trace does not tell when spikes arrive, so Lee cannot train delays; "
                "tune with SurrogateBPTT(), or keep them: delay.requires_grad_(False)"
            )
    shapes = snn.shapes()
    for node, neuron in snn.neuron_nodes():
        if rule.thresholds == "own":
            each = neuron.threshold.detach().expand(shapes[node][1:])
            neuron.threshold = nn.Parameter(each.clone())
        neuron.threshold.requires_grad_(rule.thresholds != "fixed")
        if isinstance(neuron, LIF | Lateral):
            neuron.leak.requires_grad_(False)
        if isinstance(neuron, Lateral):
            share = neuron.inhibition.item()
            if share > LARGEST:
                raise TuneError(
                    f"{node.name}: with inhibition={share:g} a group acts as one neuron and "
                    f"nobody's share can be told; give at most {LARGEST}"
                )
            neuron.inhibition.requires_grad_(rule.train_inhibition)
