"""Losses of the answers: cross-entropy of their mean, or of every step by itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import TuneError
from ..rules import Batch, Criterion
from .loss import Loss, Scene, register_loss


@dataclass(frozen=True, kw_only=True)
class MeanCrossEntropy(Loss):
    """``L = CE(y, label)`` of the answer ``y [B, classes]`` that is read off all steps.

    Labels are class numbers ``[B]`` or shares of the classes ``[B, classes]``.

    Source: Wu et al. 2018 (STBP), the rate as the answer.

    Example:
        >>> MeanCrossEntropy() == MeanCrossEntropy()
        True
    """


@register_loss(MeanCrossEntropy)
def mean_cross_entropy(loss: MeanCrossEntropy, scene: Scene) -> Criterion:
    """Return the criterion."""
    return scene.taught(
        lambda outputs, batch: scene.cross_entropy(scene.snn.read(outputs), batch.labels)
    )


@dataclass(frozen=True, kw_only=True)
class TET(Loss):
    """``L = (1 - λ) 1/T Σ_t CE(o[t], label) + λ mean((o[t] - m)²)``: every step is to answer.

    The outputs ``o`` are ``[T, B, classes]``; the second mean runs over steps, images and classes.
    Labels are class numbers ``[B]`` or shares of the classes ``[B, classes]``. With a teacher its
    answers are compared with the mean answer, as for every loss.

    Attributes:
        lam: ``λ``, weight of the pull towards ``m``; the paper's 0.05 for images.
        means: ``m``, in the units of the outputs.

    Raises:
        TuneError: on a weight outside 0 to 1.

    Source: Deng et al. 2022 (TET).

    Example:
        >>> TET(lam=0.001).means
        1.0
    """

    lam: float = 0.05
    means: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise TuneError(f"TET: lam must be from 0 to 1, not {self.lam}")


@register_loss(TET)
def tet(loss: TET, scene: Scene) -> Criterion:
    """Return the criterion; refuse a network whose single outputs are no answers."""
    drive = scene.snn.drive
    if drive is not None:
        raise TuneError(
            f"TET asks every step for the answer, but with drive={drive} the steps after the "
            f"{drive}th only correct it; convert with drive=None, or use MeanCrossEntropy()"
        )

    def criterion(outputs: Tensor, batch: Batch) -> Tensor:
        every = [len(outputs), *[1] * (batch.labels.dim() - 1)]
        labels = batch.labels.repeat(every)
        each = scene.cross_entropy(outputs.flatten(0, 1), labels)
        return (1 - loss.lam) * each + loss.lam * (outputs - loss.means).square().mean()

    return scene.taught(criterion)
