"""Shift each channel's current by what its neurons say too little or too much on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from spiketune.snn.network import check_steps

from ..walk import Arrival, walk
from .base import Correction
from .shift import put_shifts

if TYPE_CHECKING:
    from ..calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class BiasCorrection(Correction):
    """``b_c <- b_c + E[a_c] - E[r_c(T)]``, layer by layer, on the spikes that really arrive.

    ``a`` is the activation in the ANN, ``r(T)`` what the neuron says after ``T`` steps; the mean
    runs over images and positions. It is made for one ``T``, and costs a little at others.

    Attributes:
        images: calibration images used; all steps of a layer are held in memory at once.
        rounds: times that each layer is corrected and looked at again; neurons are not linear.

    Raises:
        SpiketuneError: on fewer than one image or round.

    Source: Li et al. 2021, "A free lunch from ANN", section 5.1 (light calibration).

    Example:
        >>> import spiketune as st, torch
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> method = st.Ternary(steps=2, corrections=(BiasCorrection(images=16),))
        >>> len([n for n in st.to_snn(ann, torch.rand(32, 4), method).net.graph.nodes])
        8
    """

    images: int = 64
    rounds: int = 2

    def __post_init__(self) -> None:
        check_steps(self.images, "images")
        check_steps(self.rounds, "rounds")

    def correct(self, calibration: Calibration) -> None:
        """Walk through the network once and set the shift in front of every neuron."""
        shifts = put_shifts(calibration.snn, calibration.places)

        def visit(at: Arrival) -> Tensor:
            place, current = calibration.places[at.name], at.current
            wanted = place.rows(at.neuron.activation(at.ann)).mean(1)
            for _ in range(self.rounds):
                change = place.shaped(wanted - place.rows(at.says(current)).mean(1))
                shifts[at.name] += change
                current = at.shifted(current, change)
            return current

        images = calibration.images[: self.images].to(calibration.device)
        walk(calibration.snn, images, calibration.snn.steps, visit, reference=calibration.reference)
