"""Targets for spike times, relative to the first spike of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spiketune.snn import race_of
from spiketune.snn.checks import number

from ..errors import TuneError
from ..rules import Batch, Criterion
from .loss import Loss, Scene, register_loss


@dataclass(frozen=True, kw_only=True)
class RelativeTarget(Loss):
    """``L = |T - t|``, the label's neuron first, the others at least ``γ`` later; mean over images.

    With ``t_j`` no later than the horizon ``H`` and ``t_min`` the earliest, the targets ``T`` are

        label: ``t_min - lead``;   others within ``γ`` of ``t_min``: ``min(t_min + γ, H)``;

    all others keep their time. Where none fires the label is asked at ``H - γ``. The gradient in
    ``t`` is ``-Δ/|Δ|``, ``Δ = T - t``: the displacement of each image, of norm 1. Times are in
    steps, ``[B, classes]``; labels are class numbers.

    With ``lead = 0``, as in the source, a label that is first already is not asked for anything,
    and what others are asked delays them: the network tends to fall silent, unless silent neurons
    are woken (``STiDi(wake=...)``).

    Attributes:
        gamma: ``γ``, as a share of the horizon.
        lead: how much earlier than the first spike the label's is to come, likewise.

    Raises:
        TuneError: on shares out of range, or labels that are shares of classes.

    Source: Kheradpisheh & Masquelier 2020 (S4NN), relative target; taken to hold for STiDi-BP;
    ``lead`` is our own.

    Example:
        >>> RelativeTarget(gamma=0.05).lead
        0.0
    """

    gamma: float = 3 / 256
    lead: float = 0.0

    def __post_init__(self) -> None:
        numbers = number(self.gamma) and number(self.lead)
        if not numbers or not (0 < self.gamma < 1 and 0 <= self.lead < 1):
            raise TuneError(
                f"RelativeTarget: gamma must be above 0, lead 0 or more, both below 1, not "
                f"{self.gamma!r} and {self.lead!r}"
            )

    def targets(self, times: Tensor, labels: Tensor, horizon: float) -> Tensor:
        """Return the targets ``T [B, classes]`` for times that end at the horizon.

        Example:
            >>> times, labels = torch.tensor([[4.0, 4.5, 9.0]]), torch.tensor([1])
            >>> RelativeTarget(gamma=0.1).targets(times, labels, 10.0).tolist()
            [[5.0, 4.0, 9.0]]
        """
        gamma, lead = self.gamma * horizon, self.lead * horizon
        first = times.min(1, keepdim=True).values
        fired = first < horizon
        near = fired & (times - first < gamma)
        targets = torch.where(near, (first + gamma).clamp_max(horizon), times)
        label = torch.where(fired, (first - lead).clamp_min(0), horizon - gamma)
        return targets.scatter(1, labels.unsqueeze(1), label)


@register_loss(RelativeTarget)
def relative_target(loss: RelativeTarget, scene: Scene) -> Criterion:
    """Return the criterion; refuse a network without spike times."""
    race = race_of(scene.snn)

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        if batch.labels.dim() != 1:
            raise TuneError(
                "RelativeTarget asks one class to be first; leave mixup and cutmix out, or use "
                "MeanCrossEntropy()"
            )
        times = race.times(outputs[-1])
        # A silent neuron counts as one that fires at the horizon, and learns as such.
        ends = times.detach().clamp_max(race.horizon)
        apart = loss.targets(ends, batch.labels, race.horizon) - (times + (ends - times.detach()))
        distance: Tensor = torch.linalg.vector_norm(apart, dim=1)
        return distance.mean()

    return scene.taught(criterion)
