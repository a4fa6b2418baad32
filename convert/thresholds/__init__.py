"""Threshold rules, one a file: settings, equation, source."""

from .base import FromDistribution, Histogram, Threshold
from .gaussian import Gaussian
from .ltb import LTB
from .max import Max
from .mse import MSE
from .percentile import Percentile
from .spike_input import SpikeInput

__all__ = [
    "LTB",
    "MSE",
    "FromDistribution",
    "Gaussian",
    "Histogram",
    "Max",
    "Percentile",
    "SpikeInput",
    "Threshold",
]
