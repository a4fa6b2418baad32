"""ST-RSBP: spike-train level backpropagation for networks that hear themselves.

As HM2-BP (see ``hm2bp``), and besides

* ``e_ij`` depends on how often ``i`` itself fires: ``Ω_i = 1 - 1/θ Σ_j w_ij ∂e_ij/∂o_i`` divides
  what ``i`` is credited with;
* in a recurrent layer ``A_ii = Ω_i``, ``A_il = -w_il e_il/(θ o_l)``, and ``Aᵀ y = δ`` is solved for
  each sample: ``∂L/∂w_ij = y_i/θ e_ij`` of all weights that arrive there, ``δ_j = Σ_i y_i/θ w_ij
  e_ij/o_j`` below. Nothing is unrolled in time.

Source: Zhang & Li 2019, "Spike-train level backpropagation for training deep recurrent spiking
neural networks" (NeurIPS). Reconstructed here: ``∂e_ij/∂o_i`` comes from a closed form for spikes
at random, ``e_ij = o_j φ(o_i)`` in the mean, in the place of the program's table of fitted
polynomials. Not here: the program's transposed solve, ``B A⁻¹`` for ``A⁻¹ B``, since the solution
``y`` goes through no ``B``; its constants where a count is 0 (see ``hm2bp``); the reweighting of
samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spiketune.snn import SpikingNetwork

from .counted import Counting, own_time
from .errors import TuneError
from .hm2bp import CountRule, by_counts, require_counting
from .rules import Learn, Task, register_rule


@dataclass(frozen=True, kw_only=True)
class STRSBP(CountRule):
    """Train networks with recurrent layers, and others, by the counts of spikes; see ``CountRule``.

    Attributes:
        weight_gradient: of recurrent weights: ``"full"``, or ``"reference"``, ``δ_i e_il/(θ Ω_i)``
            as the authors' program has it, which leaves out what neurons do to each other.
        factor: whether ``Ω_i`` takes ``Σ_j w_ij e_ij`` for ``θ o_i``, which keeps it above 0 for
            all but the busiest neurons, or sums it up: it then turns negative where a few large
            steps lift the membrane far beyond the threshold.

    Raises:
        TuneError: on a value out of its range.

    Source: Zhang & Li 2019 (ST-RSBP).

    Example:
        >>> STRSBP(weight_gradient="reference").factor
        'counts'
    """

    weight_gradient: Literal["full", "reference"] = "full"
    factor: Literal["counts", "currents"] = "counts"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_gradient not in ("full", "reference"):
            raise TuneError(
                f"weight_gradient must be 'full' or 'reference', not {self.weight_gradient!r}"
            )
        if self.factor not in ("counts", "currents"):
            raise TuneError(f"factor must be 'counts' or 'currents', not {self.factor!r}")


@register_rule(STRSBP)
def strsbp(snn: SpikingNetwork, rule: STRSBP, task: Task) -> Learn:
    """Give every neuron its gradient and return the step that learns from one batch.

    Raises:
        TuneError: on neurons that are not LIF, Refractory or Recurrent, or that leak in ways of
            their own within a layer.
    """
    require_counting(snn, "ST-RSBP")
    for name, neuron in snn.neurons():
        if own_time(neuron)[0].numel() > 1:
            raise TuneError(
                f"{name}: its neurons leak each in a way of its own, but ST-RSBP reckons with one "
                "leak a layer; build it with one, or tune with HM2BP() or SurrogateBPTT()"
            )
    how = Counting(
        silent=rule.silent,
        revive=rule.revive,
        saturated=rule.saturated,
        factor=rule.factor,
        whole=rule.weight_gradient == "full",
    )
    return by_counts(snn, task, how, "ST-RSBP", lateral=rule.lateral, growth=rule.growth)
