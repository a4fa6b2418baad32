"""Corrections after balancing, one a file: settings, equation, source."""

from .base import Correction
from .bias import BiasCorrection
from .potential import PotentialCorrection
from .weights import WeightCalibration

__all__ = ["BiasCorrection", "Correction", "PotentialCorrection", "WeightCalibration"]
