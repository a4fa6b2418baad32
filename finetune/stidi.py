"""STiDi-BP and its relatives: learn from the time of each neuron's one spike.

A neuron fires at ``t_j = min{t: V_j(t) >= θ}``, ``V_j(t) = Σ_i w_ji ε(t - t_i)``, with the slope
``V'_j = Σ_i w_ji ε'(t_j - t_i)`` there, no less than ``v_min``. The gradient ``g_j = ∂L/∂t_j``, or
the displacement ``Δ_j = -g_j`` that is wanted of the spike, goes to

  ``exact``         ``∂L/∂w_ji = -g_j ε(t_j - t_i)/V'_j``  ``g_i = Σ_j g_j w_ji ε'(t_j - t_i)/V'_j``
  ``displacement``  ``∂L/∂w_ji = -g_j ε(t_j - t_i)/V'_j``  ``g_i ∝ Σ_j g_j w_ji 1[t_i <= t_j]``
  ``s4nn``          ``∂L/∂w_ji = -g_j 1[t_i <= t_j]``      ``g_i ∝ Σ_j g_j w_ji 1[t_i <= t_j]``

with ``∝`` such that ``g`` keeps its norm from layer to layer, image by image: no product of slopes
builds up, and where the output's displacement has norm 1 that of every layer has. The gradient of
a batch is the mean of those of its images. ``v_min`` is in thresholds a horizon.

Silent neurons get no gradient through the layers behind them, for their spike arrives nowhere. In
the last layer they learn by the times that their membranes stand for (``snn.single_spike``). And a
neuron of any layer that is silent on all images of a batch, a channel silent everywhere, has its
weights pushed up along what arrives, ``∂L/∂w_ji = -wake mean(ε(H - t_i))/θ``, until it fires again:
give batches that hold every class. S4NN draws the weights of such neurons anew after an epoch,
which a rule does not see.

Sources: Mirsadeghi, Shalchian, Kheradpisheh & Masquelier 2021, 2023 (STiDi-BP): the slope and that
no gradient is chained; ``displacement`` is reconstructed from that, for the paper's own rule for
hidden layers was not at hand. Kheradpisheh & Masquelier 2020 (S4NN): ``s4nn``, there with ``<`` in
whole steps. Binary weights: Kheradpisheh et al. 2022 (BS4NN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from spiketune.snn import (
    Credit,
    SpikingNetwork,
    Timed,
    Times,
    race_of,
    spike_times_of,
    timed_layers,
)
from spiketune.snn.checks import number, positive

from .errors import TuneError
from .rules import Batch, Learn, Outcome, Rule, Task, register_rule

Form = Literal["exact", "displacement", "s4nn"]
# (weights by the potential, earlier spikes by the chain rule)
_FORMS: dict[str, tuple[bool, bool]] = {
    "exact": (True, True),
    "displacement": (True, False),
    "s4nn": (False, False),
}


@dataclass(frozen=True, kw_only=True)
class STiDi(Rule):
    """Train a network of exact spike times; memory is one number a neuron, whatever the latency.

    The loss sees logits ``sharpness (1 - t_k/H)`` of the times, so that ``MeanCrossEntropy`` is a
    softmax race to the first spike; ``RelativeTarget`` is the papers' own target.

    Attributes:
        form: what weights and earlier spikes get; see ``finetune.stidi``.
        v_min: least slope of a membrane that a gradient is divided by, in thresholds a horizon;
            above 0.
        sloped: without the chain rule, count each earlier spike by ``ε'(t_j - t_i)``.
        real_back: send gradients back through the real weights behind binary ones, as BS4NN does.
        wake: how hard silent neurons are pushed; 0 leaves them silent.

    Raises:
        TuneError: on an unknown form, a ``v_min`` not above 0, a ``wake`` below 0, ``sloped`` or
            ``real_back`` that is neither true nor false, or ``sloped`` with the chain rule, which
            has the slope in it.

    Example:
        >>> import torch, spiketune as st
        >>> layers = [torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 3, bias=False)]
        >>> snn, x = st.single_spike(layers, (4,)), torch.rand(16, 4)
        >>> st.fit_times(snn, x)
        >>> loader = [(x, torch.arange(16) % 3)]
        >>> len(st.tune(snn, loader, STiDi(), steps=snn.steps, epochs=2).epochs)
        2
    """

    learns: ClassVar[str] = "times"

    form: Form = "exact"
    v_min: float = 0.05
    sloped: bool = False
    real_back: bool = False
    wake: float = 0.01

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise TuneError(f"STiDi: form must be one of {', '.join(_FORMS)}, not {self.form!r}")
        if not positive(self.v_min):
            raise TuneError(
                f"STiDi: v_min must be a number above 0, not {self.v_min!r}: where a membrane just "
                "touches its threshold the gradient would be without bound"
            )
        if not number(self.wake) or self.wake < 0:
            raise TuneError(f"STiDi: wake must be a number, 0 or more, not {self.wake!r}")
        for name in ("sloped", "real_back"):
            if not isinstance(getattr(self, name), bool):
                raise TuneError(f"STiDi: {name} must be true or false, not {getattr(self, name)!r}")
        if self.sloped and self.form == "exact":
            raise TuneError("STiDi: the exact form has the slope in it already; leave sloped out")

    @property
    def credit(self) -> Credit:
        """What goes back through each layer."""
        potential, chain = _FORMS[self.form]
        return Credit(
            v_min=self.v_min, potential=potential, chain=chain, sloped=self.sloped,
            real=self.real_back,
        )  # fmt: skip


@register_rule(STiDi)
def stidi(snn: SpikingNetwork, rule: STiDi, task: Task) -> Learn:
    """Tell every layer what goes back through it and return what learns from one batch.

    Raises:
        TuneError: if the times do not end at ``task.steps``, or gradients are to pass real weights
            where there are no binary ones.
    """
    race, layers = race_of(snn), timed_layers(snn)
    if task.steps != race.horizon:
        raise TuneError(
            f"the network's times end at step {race.horizon}, not {task.steps}; tune it with "
            f"steps={race.horizon}"
        )
    if rule.real_back and not any(layer.binary for layer in layers.values()):
        raise TuneError("STiDi: real_back is for binary weights, and the network has none")
    for layer in layers.values():
        layer.credit = rule.credit
    first = True

    def learn(batch: Batch) -> Outcome:
        nonlocal first
        times = spike_times_of(snn, batch.images)
        if first and not task.begun():
            _require_spikes(times, race.horizon)
        first = False
        logits = race.logits(times.output)
        loss = task.criterion(logits.unsqueeze(0), batch)
        push = _push(layers, times, rule.wake) if rule.wake else None
        task.backward(loss if push is None else loss + push)
        return Outcome(loss.detach(), logits.detach())

    return learn


def _require_spikes(times: Times, horizon: float) -> None:
    arriving = next(iter(times.arriving.values()))
    if not bool((arriving < horizon).any()):
        raise TuneError(
            f"no pixel of the first {len(arriving)} images spikes, for all are black; check how "
            "they are loaded, and that mean and std of the network are those of the images"
        )


def _push(layers: dict[str, Timed], times: Times, wake: float) -> Tensor | None:
    """Return what pushes the neurons up that no image of the batch made fire; None if all did."""
    found = None
    for name, layer in layers.items():
        fired = times.fired[name].detach() < layer.horizon
        silent = ~fired.transpose(0, 1).flatten(1).any(1)
        if bool(silent.any()):
            mean = layer.mean_potentials(times.arriving[name].detach())
            push = -wake / layer.threshold * (layer.used[silent] * mean).sum()
            found = push if found is None else found + push
    return found
