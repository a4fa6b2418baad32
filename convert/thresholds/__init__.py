"""Threshold rules, one a file: settings, equation, source."""

from .base import Histogram, Threshold
from .max import Max
from .mse import MSE
from .percentile import Percentile

__all__ = ["MSE", "Histogram", "Max", "Percentile", "Threshold"]
