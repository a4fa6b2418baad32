"""Start each channel's membranes higher or lower, by what its neurons say wrong on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spiketune.snn import IF, LIF, SignedIF, SpiketuneError
from spiketune.snn.network import check_steps

from ..walk import Arrival, walk
from .base import Correction

if TYPE_CHECKING:
    from ..calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class PotentialCorrection(Correction):
    """``v_c(0) <- v_c(0) + T (E[a_c] - E[r_c(T)])``, layer by layer, on what really arrives.

    The source corrects every position by itself; a channel has one correction here, which does
    not depend on the size of the image.

    Attributes:
        images: calibration images used; all steps of a layer are held in memory at once.

    Raises:
        SpiketuneError: on fewer than one image, or a neuron without an initial membrane.

    Source: Li et al. 2021, "A free lunch from ANN", section 5.2 (advanced calibration).

    Example:
        >>> import spiketune as st, torch
        >>> ann = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> method = st.Binary(steps=4, corrections=(PotentialCorrection(images=16),))
        >>> next(st.to_snn(ann, torch.rand(32, 4), method).neurons())[1].initial.shape
        torch.Size([3])
    """

    images: int = 64

    def __post_init__(self) -> None:
        check_steps(self.images, "images")

    def correct(self, calibration: Calibration) -> None:
        """Walk through the network once and set the initial membrane of every neuron."""

        def visit(at: Arrival) -> None:
            if not isinstance(at.neuron, IF | LIF | SignedIF):
                raise SpiketuneError(
                    f"{at.name}: a {type(at.neuron).__name__} neuron starts from nothing; use "
                    "BiasCorrection(), or a method with integrate-and-fire neurons in every place "
                    "(Binary(), or Ternary(encode=False))"
                )
            place = calibration.places[at.name]
            lacking = at.neuron.activation(at.ann) - at.says(at.current)
            change = at.count * place.shaped(place.rows(lacking).mean(1)) / at.neuron.threshold
            at.neuron.initial = at.neuron.initial + change.to(at.neuron.initial)

        images = calibration.images[: self.images].to(calibration.device)
        walk(calibration.snn, images, calibration.snn.steps, visit, reference=calibration.reference)
