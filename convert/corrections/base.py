"""What every correction is: something done to a balanced network, on the calibration images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..calibration import Calibration


class Correction(ABC):
    """A correction; subclasses are frozen dataclasses, one a file.

    Example:
        >>> from spiketune.convert import BiasCorrection
        >>> isinstance(BiasCorrection(), Correction)
        True
    """

    @abstractmethod
    def correct(self, calibration: Calibration) -> None:
        """Change the network in ``calibration.snn`` in place."""
