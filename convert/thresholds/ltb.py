"""``θ += 2 rate E[relu(a - θ)]``: local threshold balancing, all layers at once while they clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from spiketune.snn import SpiketuneError, State, Temporal

from .base import Threshold

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..places import Place

MOST_EPOCHS = 18  # what the calibration may cost, in passes over the images


@dataclass(frozen=True, kw_only=True)
class LTB(Threshold):
    """``θ_c <- θ_c + 2 rate mean(relu(a_c - θ_c))`` per batch, from ``θ = 0``, all layers at once.

    That is a step down the slope of ``E[(min(a, θ) - a)²]``. What a layer sees comes through
    layers that already clip at their ``θ``, the one before this step. Of a neuron that sends
    signed values, ``|a|`` is balanced.

    ``θ`` only grows, ever more slowly, towards the largest activation. So ``rate`` and ``epochs``
    say how much is clipped in the end: less of both suits fewer steps. The images are taken in
    their order, 64 in a batch; of few images come few batches, and small thresholds.

    Attributes:
        rate: in (0, 0.5]; above, ``θ`` could pass the largest activation.
        epochs: passes over the calibration images, 1 to 18.

    Raises:
        SpiketuneError: on a value out of its range, or activations that are not finite.

    Source: Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion" (there 1000 to 5000
    batches of 100 images).

    Example:
        >>> import torch, spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> snn = st.to_snn(ann, torch.rand(64, 4), st.Ternary(threshold=LTB(epochs=4)))
        >>> snn.about["method"]
        'Ternary(steps=16, threshold=LTB(epochs=4))'
    """

    rate: float = 0.5
    epochs: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 0.5:
            raise SpiketuneError(f"rate must lie in (0, 0.5], not {self.rate}")
        if not isinstance(self.epochs, int) or not 1 <= self.epochs <= MOST_EPOCHS:
            raise SpiketuneError(
                f"epochs must be a whole number from 1 to {MOST_EPOCHS}, not {self.epochs}"
            )

    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Let all thresholds grow together while the ANN runs, ``epochs`` passes in all."""
        with _clipping(calibration, self.rate) as clips:
            for epoch in range(self.epochs):
                calibration.observe(lambda name, current: None, of=self.epochs, done=epoch)
        found = {name: clip.threshold for name, clip in clips.items() if clip.threshold is not None}
        for name, threshold in found.items():
            if not bool(threshold.isfinite().all()):
                raise SpiketuneError(
                    f"{name}: an activation is not finite on the calibration images; "
                    "check their preprocessing and the network's weights"
                )
        return found


class _Clip(Temporal):
    """What a neuron stands for, clipped at a threshold that every batch raises."""

    def __init__(self, place: Place, rate: float) -> None:
        super().__init__()
        # In a tuple, so that the draft does not become a part of this module.
        self.place, self.rate = (place,), rate
        self.threshold: Tensor | None = None

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        raise NotImplementedError("stands in the ANN only")

    def ann(self, x: Tensor) -> Tensor:
        (place,) = self.place
        active = place.neuron.activation(x)
        rows = place.rows(active.abs())
        if self.threshold is None:
            self.threshold = rows.new_zeros(len(rows))
        top = place.shaped(self.threshold)
        excess = (rows - self.threshold.unsqueeze(1)).clamp_min(0)
        self.threshold = self.threshold + 2 * self.rate * excess.mean(1)
        return active.clamp(-top, top)


@contextmanager
def _clipping(calibration: Calibration, rate: float) -> Iterator[dict[str, _Clip]]:
    """Let the ANN clip inside the block; the drafts come back to their places after it."""
    net = calibration.snn.net
    calibration.snn.program  # noqa: B018 (sorted while the drafts still stand in the graph)
    clips = {name: _Clip(place, rate) for name, place in calibration.places.items()}
    try:
        for name, clip in clips.items():
            net.set_submodule(str(calibration.places[name].node.target), clip)
        yield clips
    finally:
        for place in calibration.places.values():
            net.set_submodule(str(place.node.target), place.neuron)
