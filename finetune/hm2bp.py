"""HM2-BP: backpropagation between spike counts, through what whole spike trains do to each other.

Neuron ``i`` fires about ``o_i = a_i/θ`` times, ``a_i = Σ_j w_ij e_ij`` (see ``spike_trains``). A
loss of the counts of the output neurons has then ``δ_i = ∂L/∂o_i`` there, and

    ``∂L/∂w_ij = δ_i/θ e_ij``,    ``δ_j = Σ_i δ_i/θ w_ij e_ij/o_j``

below. No surrogate slope, no step unrolled; thresholds and leaks are constants.

Source: Jin, Zhang & Li 2018, "Hybrid macro/micro level backpropagation for training deep spiking
neural networks" (NeurIPS). Differences here: any batch size and any layer between the neurons, for
the pairs are summed by ordinary backpropagation (see ``counted``); their program puts constants in
the place of ``e_ij/o_j`` where ``o_i`` or ``o_j`` is 0 (1, and 0.1 for the weights), which only
whoever sees the weights can do: ``silent`` and ``revive`` are what a neuron can do by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from spiketune.snn import LIF, HardReset, Recurrent, Refractory, SpikingNetwork
from spiketune.snn.checks import number
from spiketune.snn.recurrent import tau_before

from .alive import watched
from .between import last_neurons
from .counted import Counting, counted, own_time
from .errors import TuneError
from .rules import Batch, Learn, Outcome, Rule, Task, register_rule, through_time
from .weight_growth import WeightGrowth, growth_penalty


@dataclass(frozen=True, kw_only=True)
class CountRule(Rule):
    """What rules that learn between counts of spikes have in common.

    Attributes:
        silent: what a hidden neuron that never fired is credited with: nothing, so that it stays
            as it is, or the mean of what spikes at any step would have been.
        revive: ``R`` at all steps of a neuron that never fired, in the place of the program's
            ``e_ij``; above 0, outputs and with ``silent="mean"`` hidden neurons may learn to.
        saturated: what a hidden neuron that fires as often as its rest lets it is credited with:
            nothing, for more current changes nothing there, or as all others, as in the programs.
            In 400 steps hardly any does; in 20 or 30 many may, and credit to fire more then only
            lets weights grow. Credit to fire less is dropped with it.
        lateral: strength of the inhibition between outputs that the credit reckons with, in
            thresholds (the program's 1 for thresholds of 15); 0 leaves it out.
        growth: penalty on large weights; None for none.

    Raises:
        TuneError: on a value out of its range.

    Source: Jin, Zhang & Li 2018 (HM2-BP). Whether the paper's outputs inhibit each other while
    they run too is not known here; they do not.

    Example:
        >>> HM2BP(revive=0.1).silent
        'zero'
    """

    silent: Literal["zero", "mean"] = "zero"
    revive: float = 0.05
    saturated: Literal["zero", "full"] = "zero"
    lateral: float = 0.0
    growth: WeightGrowth | None = None

    remedy = "give the rule silent='mean' and revive= above 0"

    def __post_init__(self) -> None:
        if self.silent not in ("zero", "mean"):
            raise TuneError(f"silent must be 'zero' or 'mean', not {self.silent!r}")
        if self.saturated not in ("zero", "full"):
            raise TuneError(f"saturated must be 'zero' or 'full', not {self.saturated!r}")
        for name in ("revive", "lateral"):
            value = getattr(self, name)
            if not number(value) or value < 0:
                raise TuneError(f"{name} must be 0 or more, not {value!r}")
        if self.growth is not None and not isinstance(self.growth, WeightGrowth):
            raise TuneError(f"growth must be WeightGrowth() or None, not {self.growth!r}")


@dataclass(frozen=True, kw_only=True)
class HM2BP(CountRule):
    """Train feed-forward networks by the counts of their spikes; see ``CountRule``.

    Source: Jin, Zhang & Li 2018 (HM2-BP).

    Example:
        >>> HM2BP(silent="mean").revive
        0.05
    """


@register_rule(HM2BP)
def hm2bp(snn: SpikingNetwork, rule: HM2BP, task: Task) -> Learn:
    """Give every neuron its gradient and return the step that learns from one batch.

    Raises:
        TuneError: on neurons that are not LIF or Refractory, or a layer that hears itself.
    """
    for name, neuron in snn.neurons():
        if isinstance(neuron, Recurrent):
            raise TuneError(
                f"{name}: HM2-BP trains feed-forward layers, and this one hears itself; tune with "
                "STRSBP()"
            )
    how = Counting(silent=rule.silent, revive=rule.revive, saturated=rule.saturated)
    return by_counts(snn, task, how, "HM2-BP", lateral=rule.lateral, growth=rule.growth)


def by_counts(
    snn: SpikingNetwork,
    task: Task,
    how: Counting,
    rule: str,
    *,
    lateral: float,
    growth: WeightGrowth | None,
) -> Learn:
    """Give every neuron the gradient of its count and return the step that learns from one batch.

    Args:
        snn: the network.
        task: what it is to learn.
        how: settings of hidden layers; outputs are credited in any case, for they have a target.
        rule: its name, for messages.
        lateral: strength of the inhibition between outputs, in thresholds.
        growth: penalty on large weights.

    Raises:
        TuneError: naming the neuron, or the setting, that does not fit; in the first batch, naming
            neurons none of which fires, or none of which could fire more, and that would stay so.

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.twin(ann, 5, (4,), neuron=st.RefractoryNeuron())
        >>> task = Task(steps=5, criterion=lambda outputs, batch: outputs.sum())
        >>> learn = by_counts(snn, task, Counting(), "a rule", lateral=0.0, growth=None)
        >>> list(learn(Batch(torch.rand(2, 4), torch.tensor([0, 1]))).answers.shape)
        [2, 3]
    """
    require_counting(snn, rule)
    answering = {n for n, _ in snn.neuron_nodes() if any(u.op == "output" for u in n.users)}
    if lateral and not answering:
        raise TuneError(
            f"lateral={lateral} is inhibition between spiking outputs, but this network answers "
            "with currents or filtered spikes; leave it out, or end the network in neurons"
        )
    last = last_neurons(snn)
    stuck, most = set(), {}  # where silence would last, and where din would
    for node, neuron in snn.neuron_nodes():
        neuron.threshold.requires_grad_(False)
        own = how
        if node.name in last:
            inhibits = (lateral, tau_before(snn, node)) if lateral else None
            own = replace(how, silent="mean", saturated="full", lateral=inhibits)
        neuron.through = partial(counted, own)
        if own.silent == "zero" or not own.revive:
            stuck.add(node.name)
        if own.saturated == "zero":
            most[node.name] = task.steps / (own_time(neuron)[1] + 1)
    seen = watched(stuck, f"or {CountRule.remedy}", task.begun, most)
    plain = through_time(snn, task, seen)
    if growth is None:
        return plain

    def learn(batch: Batch) -> Outcome:
        outcome = plain(batch)
        task.backward(growth_penalty(snn, growth))
        return outcome

    return learn


def require_counting(snn: SpikingNetwork, rule: str) -> None:
    """Refuse a network whose neurons keep more from one spike to the next than rules of counts see.

    Raises:
        TuneError: naming the neuron and the remedy.
    """
    if snn.drive is not None:
        raise TuneError(
            f"{rule} counts the spikes of a whole run, but in this network the image acts for "
            f"{snn.drive} steps only; tune with SurrogateBPTT(), or convert without a drive"
        )
    for name, neuron in snn.neurons():
        fits = type(neuron) in (LIF, Refractory, Recurrent)
        if not fits or neuron.firing.reset != HardReset():
            raise TuneError(
                f"{name}: {rule} trains LIF and refractory neurons with a hard reset to 0, not "
                f"{type(neuron).__name__} with {neuron.firing.reset}; build the network with "
                "neuron=RefractoryNeuron()"
            )
