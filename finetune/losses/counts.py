"""The loss of spike counts: so many for the label's neuron, so few for the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spiketune.snn import timed_layers
from spiketune.snn.checks import number

from ..errors import TuneError
from ..rules import Batch, Criterion
from .loss import Loss, Scene, register_loss


@dataclass(frozen=True, kw_only=True)
class SpikeCount(Loss):
    """``L = ½ Σ_k (o_k - y_k)²`` of the counts ``o = Σ_t s[t]``, the mean over images.

    Counts are sums of the raw outputs ``[T, B, classes]``: of spikes, in the units in which the
    last layer sends them. An error of at most ``margin`` counts as none: a dead zone.

    Attributes:
        hit: ``y_k`` of the label's class.
        miss: of all others.
        margin: largest error that is none.
        per_step: divide ``L`` by ``T``, as where a count's error is spread over a window.

    Raises:
        TuneError: on a negative margin, or as many spikes for the label as for the others.

    Sources: Zhang & Li 2019 (ST-RSBP), counts with a dead zone; Shrestha & Orchard 2018 (SLAYER),
    the number of spikes in a window.

    Example:
        >>> SpikeCount(hit=12, miss=2, margin=1).per_step
        False
    """

    hit: float
    miss: float
    margin: float = 0.0
    per_step: bool = False

    def __post_init__(self) -> None:
        if not (number(self.hit) and number(self.miss)) or self.hit == self.miss:
            raise TuneError(
                f"SpikeCount: hit={self.hit!r} and miss={self.miss!r} tell no class from another; "
                "give two numbers, such as hit=12 and miss=2"
            )
        if not number(self.margin) or self.margin < 0:
            raise TuneError(f"SpikeCount: margin must be 0 or more, not {self.margin!r}")


@register_loss(SpikeCount)
def spike_count(loss: SpikeCount, scene: Scene) -> Criterion:
    """Return the criterion."""
    require_targets(scene, "SpikeCount")

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        share = of_classes(batch.labels, outputs)
        error = outputs.sum(0) - (loss.miss + (loss.hit - loss.miss) * share)
        error = torch.where(error.abs() > loss.margin, error, 0.0)
        total = error.square().sum() / (2 * len(error))
        return total / len(outputs) if loss.per_step else total

    return scene.taught(criterion)


def of_classes(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return each class's share of the labels, ``[B, classes]``: 1 for the label's.

    Args:
        labels: class numbers ``[B]``, or shares of the classes ``[B, classes]``.
        outputs: ``[T, B, classes]``.

    Example:
        >>> of_classes(torch.tensor([1]), torch.zeros(4, 1, 3)).tolist()
        [[0.0, 1.0, 0.0]]
    """
    if labels.dim() > 1:
        return labels.to(outputs.dtype)
    return functional.one_hot(labels, outputs.shape[-1]).to(outputs.dtype)


def require_targets(scene: Scene, name: str) -> None:
    """Refuse what says nothing to a loss whose targets are spikes: label smoothing, spike times.

    Raises:
        TuneError: naming the loss and the remedy.
    """
    if timed_layers(scene.snn):
        raise TuneError(
            f"{name} looks at spikes over steps, and this network answers by one exact time a "
            "class; use MeanCrossEntropy() or RelativeTarget()"
        )
    if scene.training.label_smoothing:
        raise TuneError(
            f"{name} has targets of its own, so label_smoothing={scene.training.label_smoothing} "
            "would do nothing; leave it out"
        )
