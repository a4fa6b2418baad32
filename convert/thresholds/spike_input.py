"""``θ_l = max W_l s_{l-1}``: the largest current that spikes bring in one step, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiketune.snn import SpiketuneError
from spiketune.snn.network import check_steps

from ..walk import Arrival, walk
from .base import Threshold

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..places import Place


@dataclass(frozen=True, kw_only=True)
class SpikeInput(Threshold):
    """``θ_c = scale · percentile of relu(c_c(t))`` over steps, images and positions.

    ``c(t) [T, B, ...]`` is the weighted current of each step, bias included, brought by the spikes
    of layers that are balanced already: the network is simulated layer by layer, once. With
    Poisson input the first layer sees the spikes of the image too. Of a neuron that sends signed
    values, ``|c|`` is balanced. Where the percentile falls among the zeros, the channel takes its
    largest current.

    With binary spikes a current comes in lumps, so ``θ`` is far above the largest activation:
    nothing is lost in one step, and many steps are needed. ``scale`` trades one for the other.

    Attributes:
        percent: in (0, 100]; 100 is the largest current.
        scale: factor on every threshold, applied while later layers are balanced too.
        balancing_steps: steps simulated; the network's own by default (1000 and more in the
            sources).
        images: at most so many, spread over the calibration images; all steps of a layer are in
            memory at once.

    Raises:
        SpiketuneError: on a value out of its range, currents that are not finite, or a layer
            into which no positive current comes.

    Source: Sengupta et al. 2019, "Going deeper in spiking neural networks" (maximum); Rathi et al.
    2020, "Enabling deep SNNs with hybrid conversion" (with a scale of 0.7); Rathi & Roy 2021
    (DIET-SNN, percentile of 99.7).

    Example:
        >>> import spiketune as st
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> method = st.Binary(threshold=SpikeInput(percent=100), input="poisson")
        >>> st.to_snn(ann, torch.rand(64, 4), method).about["method"]
        "Binary(steps=16, threshold=SpikeInput(percent=100), input='poisson')"
    """

    percent: float = 99.7
    scale: float = 1.0
    balancing_steps: int | None = None
    images: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise SpiketuneError(f"percent must lie in (0, 100], not {self.percent}")
        if not 0 < self.scale < math.inf:
            raise SpiketuneError(f"scale must be above zero and finite, not {self.scale}")
        if self.balancing_steps is not None:
            check_steps(self.balancing_steps, "balancing_steps")
        check_steps(self.images, "images")

    def calibrate(self, calibration: Calibration) -> dict[str, Tensor]:
        """Balance each neuron on what arrives at it, in one walk through the network."""
        found: dict[str, Tensor] = {}

        def visit(at: Arrival) -> None:
            place = calibration.places[at.name]
            found[at.name] = self._balance(place, at)
            # Later layers see this one as ``to_snn`` is going to build it.
            place.neuron.threshold = calibration.neuron(place, found[at.name]).threshold
            calibration.progress(len(found), len(calibration.places))

        count = min(self.images, len(calibration.images))
        spread = torch.linspace(0, len(calibration.images) - 1, count).long()
        images = calibration.images[spread].to(calibration.device)
        walk(calibration.snn, images, self.balancing_steps or calibration.snn.steps, visit)
        return found

    def _balance(self, place: Place, at: Arrival) -> Tensor:
        """Return ``θ [C]``, zero for channels into which no positive current comes."""
        currents = at.current.flatten(0, 1)
        floor = place.neuron.floor
        sizes = currents.abs() if floor is None or floor < 0 else currents.clamp_min(0)
        rows = place.rows(sizes)
        largest = rows.amax(1)
        if not bool(largest.isfinite().all()):
            raise SpiketuneError(
                f"{at.name}: a current is not finite on the calibration images; "
                "check their preprocessing and the network's weights"
            )
        rank = max(math.ceil(rows.shape[1] * self.percent / 100), 1)
        chosen = rows.kthvalue(rank, dim=1).values
        return self.scale * torch.where(chosen > 0, chosen, largest)
