"""The seam between a run and its loss: settings, and one function registered for their type.

The function gets the settings and the ``Scene`` of the run and returns the criterion: raw outputs
``[T, B, classes]`` and a batch in, a scalar out. What a loss wants to see beside the outputs it
asks of a ``Watch``, which looks at the neurons as long as the run lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor
from torch.nn import functional

from spiketune.snn import Mean, SpikingNetwork

from ..distill import divergence
from ..errors import TuneError
from ..rules import Batch, Criterion
from ..watch import Watch

if TYPE_CHECKING:
    from ..training import Training


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Base of the settings of every loss.

    Example:
        >>> from spiketune.finetune import TET
        >>> isinstance(TET(), Loss)
        True
    """


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a loss needs to know of the run.

    Attributes:
        snn: the network that learns.
        training: settings of the run: label smoothing, distillation.
        steps: the step budget ``T``.
        watches: put what must watch the neurons here.

    Example:
        >>> import spiketune as st
        >>> from spiketune.finetune import Training
        >>> snn = st.spiking("test_resnet", num_classes=10, steps=4, in_chans=1, image_size=32)
        >>> Scene(snn=snn, training=Training(), steps=4).watches
        []
    """

    snn: SpikingNetwork
    training: Training
    steps: int
    watches: list[Watch] = field(default_factory=list)

    def cross_entropy(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of ``answers [B, classes]``, labels smoothed as set.

        Args:
            answers: logits.
            labels: class numbers ``[B]``, or shares of the classes ``[B, classes]`` as mixup
                makes them.
        """
        return functional.cross_entropy(
            answers, labels, label_smoothing=self.training.label_smoothing
        )

    def _mean(self, outputs: Tensor) -> Tensor:
        """Return the mean answers, in the teacher's units whatever the network's readout."""
        return Mean()(outputs, self.snn.drive)[-1]

    def taught(self, labelled: Criterion) -> Criterion:
        """Return ``(1 - a) labelled + a τ² KL(teacher || network)`` of the mean answers.

        ``a`` is the distillation weight and ``τ`` its temperature. Without a teacher's answers in
        the batch the criterion is ``labelled`` alone.

        Source: Hinton et al. 2015; the factor τ² keeps the gradients' size as τ changes.
        """
        share, temperature = self.training.distillation, self.training.temperature

        def criterion(outputs: Tensor, batch: Batch) -> Tensor:
            hard = labelled(outputs, batch)
            if batch.taught is None:
                return hard
            soft = divergence(self._mean(outputs), batch.taught, temperature)
            return (1 - share) * hard + share * temperature**2 * soft

        return criterion


LossT = TypeVar("LossT", bound=Loss)
Build = Callable[[LossT, Scene], Criterion]

_BUILD: dict[type[Loss], Build[Any]] = {}


def register_loss(loss: type[LossT]) -> Callable[[Build[LossT]], Build[LossT]]:
    """Register the function that makes the criterion of one type of loss.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class LastStep(Loss):
        ...     pass
        >>> @register_loss(LastStep)
        ... def last_step(loss: LastStep, scene: Scene) -> Criterion:
        ...     return lambda outputs, batch: scene.cross_entropy(outputs[-1], batch.labels)
    """

    def register(build: Build[LossT]) -> Build[LossT]:
        _BUILD[loss] = build
        return build

    return register


def build(loss: Loss, scene: Scene) -> Criterion:
    """Return the criterion of a loss.

    Raises:
        TuneError: if the loss is unknown, or says that it makes no sense for this network.
    """
    if type(loss) not in _BUILD:
        known = ", ".join(sorted(known.__name__ for known in _BUILD))
        raise TuneError(f"{loss!r} is not a loss; use an instance of one of {known}")
    return _BUILD[type(loss)](loss, scene)
