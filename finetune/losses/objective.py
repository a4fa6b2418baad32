"""The loss of a run: the labels, the teacher's answers, and what is watched of the neurons."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from spiketune.snn import SpikingNetwork

from ..distill import Comparison
from ..rules import Batch
from ..watch import Watch
from .loss import Scene, build

if TYPE_CHECKING:
    from ..training import Training


class Objective:
    """The criterion of a run; it watches the network while its context lasts.

    ``(outputs [T, B, classes], batch) -> loss``: the loss that the training asks for, the
    teacher's answers weighed against its labels (``Scene.taught``), the features added to it.

    Args:
        snn: the network that learns.
        training: loss, label smoothing, distillation, features.
        steps: the step budget ``T``.
        teacher: needed for features; its answers come with the batch.

    Raises:
        TuneError: if a loss makes no sense for this network, or features have no teacher.

    Example:
        >>> import torch, spiketune as st
        >>> snn = st.spiking("test_resnet", num_classes=2, steps=4, in_chans=1, image_size=32)
        >>> batch = Batch(torch.zeros(1, 1, 32, 32), torch.tensor([1]))
        >>> with Objective(snn, st.Training(), steps=4) as criterion:
        ...     round(criterion(torch.zeros(4, 1, 2), batch).item(), 4)
        0.6931
    """

    def __init__(
        self,
        snn: SpikingNetwork,
        training: Training,
        *,
        steps: int,
        teacher: nn.Module | None = None,
    ) -> None:
        scene = Scene(snn=snn, training=training, steps=steps)
        self._loss = build(training.loss, scene)
        self._watches = scene.watches
        self._features: Comparison | None = None
        if training.features is not None:
            self._features = Comparison(snn, teacher, training.features, steps)

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of raw outputs ``[T, B, classes]``, a scalar."""
        loss = self._loss(outputs, batch)
        return loss if self._features is None else loss + self._features.loss()

    def show(self, name: str, mean: Tensor) -> None:
        """Take a neuron's mean ``[B, ...]`` from a rule that does not call the neuron itself."""
        if self._features is not None:
            self._features.show(name, mean)

    def __enter__(self) -> Self:
        """Start watching."""
        for watch in self._watched():
            watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no hook behind."""
        for watch in self._watched():
            watch.stop()

    def _watched(self) -> list[Watch | Comparison]:
        return [*self._watches, *([] if self._features is None else [self._features])]
